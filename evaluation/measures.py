"""What is measured of a clip, and in which column of the table it stands."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from evaluation import cepstra, pitch
from evaluation.dnsmos import Dnsmos
from evaluation.recognizers import RATE_HZ, Recognizer
from evaluation.speakers import Embedder
from utils.audio import read_audio

WIDE_RATE_HZ = 24000
"""Sample rate for metrics without a model."""
# No model of those that stage 4 names needs more.
_MIN_SECONDS = 0.5


@dataclass(frozen=True)
class Column:
    """A metric: its key in metrics.json, its title, what to multiply it with for the table, and which way is better."""

    key: str
    title: str
    scale: float = 1
    digits: int = 2
    better: str = ""


COLUMNS = (
    Column("wer", "WER %", 100, 1, "lower"),
    Column("sim_o", "SIM-o", digits=3, better="higher"),
    Column("sim_r", "SIM-r", digits=3, better="higher"),
    Column("dnsmos_speech", "DNSMOS SIG", better="higher"),
    Column("dnsmos_background", "DNSMOS BAK", better="higher"),
    Column("dnsmos_overall", "DNSMOS OVRL", better="higher"),
    Column("dnsmos_p808", "DNSMOS P.808", better="higher"),
    Column("mcd_db", "MCD dB", better="lower"),
    Column("pitch_correlation", "F0 corr.", better="higher"),
    Column("duration_ratio", "duration ratio"),
    Column("real_time_factor", "RTF", better="lower"),
    Column("failed", "failed %", 100, 1, "lower"),
)


@dataclass(frozen=True)
class Value:
    """A sum and how many it is of, such as wrong words of all words: sums of several are a corpus's."""

    total: float
    count: float = 1

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else float("nan")


@dataclass(frozen=True)
class Clip:
    """An audio file, or a part of it."""

    path: Path
    start_seconds: float = 0.0
    duration_seconds: float | None = None

    def read(self, rate_hz: int) -> np.ndarray:
        """(N,) samples. Raises UserError where the file cannot be read."""
        return read_audio(self.path, rate_hz, self.start_seconds, self.duration_seconds).numpy()


@dataclass(frozen=True)
class Sound:
    """What measures need of a clip, each once."""

    clip: Clip

    @cached_property
    def narrow(self) -> np.ndarray:
        """(N,) at 16 kHz."""
        return self.clip.read(RATE_HZ)

    @property
    def padded(self) -> np.ndarray:
        """(N,) at 16 kHz, with silence behind a clip that is too short for the windows of recognizer and speaker model.

        DNSMOS repeats a short clip itself.
        """
        return np.pad(self.narrow, (0, max(0, round(_MIN_SECONDS * RATE_HZ) - len(self.narrow))))

    @cached_property
    def wide(self) -> np.ndarray:
        """(N,) at 24 kHz, from the first to the last sound."""
        return cepstra.trim(self.clip.read(WIDE_RATE_HZ))

    @cached_property
    def cepstra(self) -> np.ndarray:
        return cepstra.mel_cepstra(self.wide, WIDE_RATE_HZ)

    @cached_property
    def log_pitch(self) -> np.ndarray:
        return pitch.log_pitch(self.wide, WIDE_RATE_HZ)


@lru_cache(maxsize=16)
def listen(clip: Clip) -> Sound:
    """The clip's sound, kept while the systems' clips of one text are measured."""
    return Sound(clip)


@dataclass(frozen=True)
class Target:
    """What a clip should be: its text, the voice as recorded and as its codec keeps it, and a reference.

    Of a continuation the first seconds are the prompt itself, and tell nothing of the voice.
    """

    text: str
    prompt: Clip
    prompt_copy: Clip | None
    reference: Clip | None
    prompt_seconds: float = 0.0


@dataclass
class Measures:
    """Everything that can be measured; what is None is left out."""

    normalize: Callable[[str], str]
    recognizer: Recognizer | None = None
    embedder: Embedder | None = None
    dnsmos: Dnsmos | None = None
    _embeddings: dict[Clip, np.ndarray] = field(default_factory=dict)

    def measure(self, clip: Clip, target: Target) -> tuple[dict[str, Value], str]:
        """Values by key, and what the recognizer heard. Raises UserError where the clip cannot be read."""
        values: dict[str, Value] = {}
        sound, heard = listen(clip), ""
        if self.recognizer is not None:
            heard = self.recognizer.transcribe(sound.padded)
            if self.has_words(target.text):
                values["wer"] = word_errors(self.normalize(target.text), self.normalize(heard))
        if self.embedder is not None:
            own = self._embedding(Clip(clip.path, clip.start_seconds + target.prompt_seconds))
            for key, prompt in (("sim_o", target.prompt), ("sim_r", target.prompt_copy)):
                if prompt is not None:
                    values[key] = Value(float(own @ self._embedding(prompt)))
        if self.dnsmos is not None:
            names = ("dnsmos_speech", "dnsmos_background", "dnsmos_overall", "dnsmos_p808")
            values |= {key: Value(rating) for key, rating in zip(names, self.dnsmos.rate(sound.narrow), strict=True)}
        if target.reference is not None:
            values |= compare(sound, listen(target.reference))
        # A clip without sound has no embedding and no cepstra: a mean must not become NaN for it.
        return {key: value for key, value in values.items() if np.isfinite(value.mean)}, heard

    def has_words(self, text: str) -> bool:
        """Whether normalisation leaves any word of a text; without words there is no word error rate."""
        return bool(self.normalize(text).split())

    def _embedding(self, clip: Clip) -> np.ndarray:
        assert self.embedder is not None
        if clip not in self._embeddings:
            self._embeddings[clip] = self.embedder.embed(listen(clip).padded)
        return self._embeddings[clip]


def word_errors(reference: str, heard: str) -> Value:
    """Wrong, missing and added words of the reference's words."""
    import jiwer

    counts = jiwer.process_words([reference], [heard])
    num_words = counts.hits + counts.substitutions + counts.deletions
    return Value(counts.substitutions + counts.deletions + counts.insertions, num_words)


def compare(sound: Sound, reference: Sound) -> dict[str, Value]:
    """What can be told without a model where it is known how the text should sound."""
    distance, path = cepstra.align(sound.cepstra, reference.cepstra)
    values = {"mcd_db": Value(distance), "duration_ratio": Value(len(sound.wide) / max(1, len(reference.wide)))}
    correlation = pitch.correlation(sound.log_pitch, reference.log_pitch, path)
    return values if correlation is None else values | {"pitch_correlation": Value(correlation)}


def interval(values: list[Value], num_draws: int = 1000) -> tuple[float, float, float]:
    """The mean of a corpus and the ends of its 95 % confidence interval, by bootstrap over utterances."""
    totals, counts = np.array([(value.total, value.count) for value in values], dtype=float).T
    rows = np.random.default_rng(0).integers(len(values), size=(num_draws, len(values)))
    means = totals[rows].sum(1) / np.maximum(counts[rows].sum(1), 1e-9)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(totals.sum() / max(counts.sum(), 1e-9)), float(low), float(high)
