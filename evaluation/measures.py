"""The metrics of a clip, and the columns of the results table."""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from evaluation import cepstra, pitch
from evaluation.dnsmos import Dnsmos
from evaluation.normalizers import Normalizer
from evaluation.recognizers import RATE_HZ, Recognizer
from evaluation.speakers import Embedder
from evaluation.utmos import Utmos
from utils.audio import read_audio

WIDE_RATE_HZ = 24000
"""Sample rate of the metrics that need no model."""
# The shortest input that all models named by stage 4 accept.
_MIN_SECONDS = 0.5


@dataclass(frozen=True)
class Column:
    """A metric: its key in metrics.json, and how the table shows it. Values are multiplied by `scale` there."""

    key: str
    title: str
    scale: float = 1
    digits: int = 2
    better: str = ""


COLUMNS = (
    Column("wer", "WER %", 100, 2, "lower"),
    Column("cer", "CER %", 100, 2, "lower"),
    Column("sim_o", "SIM-o", digits=3, better="higher"),
    Column("sim_r", "SIM-r", digits=3, better="higher"),
    Column("utmos", "UTMOS", better="higher"),
    Column("dnsmos_speech", "DNSMOS SIG", better="higher"),
    Column("dnsmos_background", "DNSMOS BAK", better="higher"),
    Column("dnsmos_overall", "DNSMOS OVRL", better="higher"),
    Column("dnsmos_p808", "DNSMOS P.808", better="higher"),
    Column("mcd_db", "MCD dB", better="lower"),
    Column("pitch_correlation", "F0 corr.", better="higher"),
    Column("duration_ratio", "duration ratio"),
    Column("real_time_factor", "RTF", better="lower"),
    Column("failed", "failed %", 100, 1, "lower"),
    Column("suspects", "suspect words %", 100, 1, "lower"),
)


@dataclass(frozen=True)
class Ratio:
    """A numerator and a denominator, such as wrong words and all words: a corpus's value is the ratio of their sums."""

    total: float
    count: float = 1

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else float("nan")


@dataclass(frozen=True)
class Clip:
    """An audio file or a part of one."""

    path: Path
    start_seconds: float = 0.0
    duration_seconds: float | None = None

    def read(self, rate_hz: int) -> np.ndarray:
        """Read (N,) samples at `rate_hz`. Raises UserError if the file cannot be read."""
        return read_audio(self.path, rate_hz, self.start_seconds, self.duration_seconds).numpy()


@dataclass(frozen=True)
class ClipFeatures:
    """Audio and features of a clip, each computed once, when it is first needed."""

    clip: Clip

    @cached_property
    def narrow(self) -> np.ndarray:
        """Audio (N,) at 16 kHz."""
        return self.clip.read(RATE_HZ)

    @property
    def padded(self) -> np.ndarray:
        """Audio (N,) at 16 kHz, padded with silence if it is shorter than the models' windows.

        Not for DNSMOS, which repeats short audio itself.
        """
        return np.pad(self.narrow, (0, max(0, round(_MIN_SECONDS * RATE_HZ) - len(self.narrow))))

    @cached_property
    def wide(self) -> np.ndarray:
        """Audio (N,) at 24 kHz, without silence at its ends."""
        return cepstra.trim(self.clip.read(WIDE_RATE_HZ))

    @cached_property
    def cepstra(self) -> np.ndarray:
        return cepstra.mel_cepstra(self.wide, WIDE_RATE_HZ)

    @cached_property
    def log_pitch(self) -> np.ndarray:
        return pitch.log_pitch(self.wide, WIDE_RATE_HZ)


@lru_cache(maxsize=16)
def features_of(clip: Clip) -> ClipFeatures:
    """Features of a clip, from a cache large enough for all systems' clips of one text."""
    return ClipFeatures(clip)


@dataclass(frozen=True)
class Target:
    """What a clip is compared with: its text, its prompt, the prompt after the codec, and a reference recording.

    The first `prompt_seconds` of a continuation are the prompt itself, so speaker similarity leaves them out.
    """

    text: str
    prompt: Clip
    prompt_copy: Clip | None
    reference: Clip | None
    prompt_seconds: float = 0.0


@dataclass
class Measures:
    """Computes the metrics of clips; those whose model is None are left out."""

    normalizer: Normalizer
    recognizer: Recognizer | None = None
    embedder: Embedder | None = None
    dnsmos: Dnsmos | None = None
    utmos: Utmos | None = None
    _embeddings: dict[Clip, np.ndarray] = field(default_factory=dict)

    def measure(self, clip: Clip, target: Target) -> tuple[dict[str, Ratio], str]:
        """Return the metrics by key and the recognizer's transcript. Raises UserError if the clip cannot be read."""
        values: dict[str, Ratio] = {}
        features, transcript = features_of(clip), ""
        if self.recognizer is not None:
            transcript = self.recognizer.transcribe(features.padded)
            if self.has_words(target.text):
                values |= text_errors(self.normalizer, target.text, transcript)
        if self.embedder is not None:
            own = self._embedding(Clip(clip.path, clip.start_seconds + target.prompt_seconds))
            for key, prompt in (("sim_o", target.prompt), ("sim_r", target.prompt_copy)):
                if prompt is not None:
                    values[key] = Ratio(float(own @ self._embedding(prompt)))
        if self.dnsmos is not None:
            names = ("dnsmos_speech", "dnsmos_background", "dnsmos_overall", "dnsmos_p808")
            values |= {key: Ratio(rating) for key, rating in zip(names, self.dnsmos.rate(features.narrow), strict=True)}
        if self.utmos is not None:
            values["utmos"] = Ratio(self.utmos.rate(features.padded))
        if target.reference is not None:
            values |= compare(features, features_of(target.reference))
        # Metrics of a silent clip are NaN: one of them would make the system's mean NaN.
        return {key: value for key, value in values.items() if np.isfinite(value.mean)}, transcript

    def has_words(self, text: str) -> bool:
        """Whether any word of the text is left after normalization; if not, it has neither WER nor CER."""
        return bool(self.normalizer(text).split())

    def _embedding(self, clip: Clip) -> np.ndarray:
        assert self.embedder is not None
        if clip not in self._embeddings:
            self._embeddings[clip] = self.embedder.embed(features_of(clip).padded)
        return self._embeddings[clip]


def text_errors(normalizer: Normalizer, text: str, transcript: str) -> dict[str, Ratio]:
    """`wer` and `cer` of a transcript; `cer` alone in a language without spaces between words."""
    reference, heard = normalizer(text), normalizer.heard(transcript)
    errors = {"wer": word_errors(reference, heard)} if normalizer.has_words else {}
    errors["cer"] = character_errors(reference, heard)
    # The mean of the texts' rates: each text counts the same.
    return {key: Ratio(value.mean) for key, value in errors.items()} if normalizer.is_mean_of_texts else errors


def word_errors(reference: str, transcript: str) -> Ratio:
    """Substituted, deleted and inserted words, over the words of the reference."""
    import jiwer

    counts = jiwer.process_words([reference], [transcript])
    num_words = counts.hits + counts.substitutions + counts.deletions
    return Ratio(counts.substitutions + counts.deletions + counts.insertions, num_words)


def character_errors(reference: str, transcript: str) -> Ratio:
    """Substituted, deleted and inserted characters, over the characters of the reference.

    One space between two words counts as a character.
    """
    import jiwer

    # Removed punctuation leaves several spaces behind: they are no errors.
    reference, transcript = (" ".join(text.split()) for text in (reference, transcript))
    counts = jiwer.process_characters([reference], [transcript])
    num_characters = counts.hits + counts.substitutions + counts.deletions
    return Ratio(counts.substitutions + counts.deletions + counts.insertions, num_characters)


def compare(features: ClipFeatures, reference: ClipFeatures) -> dict[str, Ratio]:
    """Compute the metrics that need a reference recording and no model."""
    distance, path = cepstra.align(features.cepstra, reference.cepstra)
    values = {"mcd_db": Ratio(distance), "duration_ratio": Ratio(len(features.wide) / max(1, len(reference.wide)))}
    correlation = pitch.correlation(features.log_pitch, reference.log_pitch, path)
    return values if correlation is None else values | {"pitch_correlation": Ratio(correlation)}


def interval(values: list[Ratio], num_draws: int = 1000) -> tuple[float, float, float]:
    """Return the corpus's value and the ends of its 95 % confidence interval, by bootstrap over utterances."""
    totals, counts = np.array([(value.total, value.count) for value in values], dtype=float).T
    rows = np.random.default_rng(0).integers(len(values), size=(num_draws, len(values)))
    means = totals[rows].sum(1) / np.maximum(counts[rows].sum(1), 1e-9)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(totals.sum() / max(counts.sum(), 1e-9)), float(low), float(high)
