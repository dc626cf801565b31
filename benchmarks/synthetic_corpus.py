"""A corpus that needs no download: ten synthetic voices in LibriTTS's layout.

All voices are American English of espeak-ng, so the `en-us` phones of stage 1 are the phones in the audio. Everything
is deterministic.
"""

import math
import random
from pathlib import Path

import numpy as np
import soundfile

from processors.demo_sentences import SHORT_TEMPLATES, fill, sentences
from processors.espeak_speech import SAMPLE_RATE_HZ, EspeakSynthesizer, Voice, espeak_synthesizer
from utils.log import progress_bar

# Only variants without echo and without klatt synthesis, which uses the C library's random state.
VOICES = (
    Voice("101", "M", "m3", 30, 168),
    Voice("102", "F", "f1", 52, 172),
    Voice("103", "M", "m7", 65, 180),
    Voice("104", "F", "f5", 58, 165),
    Voice("105", "M", "Andy", 55, 176),
    Voice("106", "F", "belinda", 52, 168),
    Voice("107", "M", "quincy", 25, 162),
    Voice("108", "F", "shelby", 30, 180),
    Voice("109", "M", "boris", 85, 166),
    Voice("110", "F", "grandma", 88, 168),
)

# Share of short texts in the training split.
_SHORT_SHARE = 0.12
_SHORTEST_SECONDS = 0.5


def write_synthetic_corpus(folder: Path, minutes: float, seed: int = 0) -> None:
    """Write about this many minutes of speech in LibriTTS's layout, at least eight utterances per voice.

    `train-clean-100`, `dev-clean` and `test-clean` share no sentence, and every split has all ten voices. Utterances
    last 2 to 10 s, but an eighth of the training split are short texts of a few words, which several voices may share.
    The test split has single sentences of 2.5 to 4 s, which are suitable as prompts.
    """
    folder.mkdir(parents=True)
    # The last of `planned` comes first: test, then validation, then training until there are enough minutes.
    num_test, num_dev = min(6, max(4, math.ceil(minutes / 13.5))), min(4, math.ceil(minutes / 20))
    num_rounds = {"train-clean-100": 3, "dev-clean": num_dev, "test-clean": num_test}
    planned = [split for split, num in num_rounds.items() for _ in range(num)]
    total_seconds = minutes * 60
    with (
        espeak_synthesizer() as espeak,
        progress_bar(total=total_seconds, desc="synthetic corpus", unit="s of speech", unit_scale=True) as bar,
    ):
        writer = _Writer(folder, espeak, seed)
        while planned or writer.total_seconds < total_seconds:
            seconds = writer.add_round(planned.pop() if planned else "train-clean-100")
            # Past its total, tqdm would show the total as unknown.
            bar.update(min(seconds, total_seconds - bar.n))
    writer.finish()


class _Writer:
    """Writes the files of a corpus, one utterance of every voice at a time."""

    def __init__(self, folder: Path, espeak: EspeakSynthesizer, seed: int) -> None:
        self._folder, self._espeak = folder, espeak
        self._sentences, self._choice = sentences(seed), random.Random(seed)
        self._texts: dict[tuple[str, Voice], list[str]] = {}
        self._train_seconds = dict.fromkeys(VOICES, 0.0)
        self.total_seconds = 0.0

    def add_round(self, split: str) -> float:
        """Write one utterance of every voice to a split; returns their total duration in seconds."""
        before = self.total_seconds
        for voice in VOICES:
            text, audio = self._draw(split, voice)
            texts = self._texts.setdefault((split, voice), [])
            path = self._chapter(split, voice) / f"{self._id(split, voice, len(texts))}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.round(audio * 32767).astype(np.int16), SAMPLE_RATE_HZ)
            for kind in ("normalized", "original"):
                path.with_suffix(f".{kind}.txt").write_text(text)
            texts.append(text)
            seconds = len(audio) / SAMPLE_RATE_HZ
            self.total_seconds += seconds
            self._train_seconds[voice] += seconds if split == "train-clean-100" else 0
        return self.total_seconds - before

    def finish(self) -> None:
        """Write the tables of all chapters and of the speakers."""
        for (split, voice), texts in self._texts.items():
            chapter = self._chapter(split, voice)
            rows = [(self._id(split, voice, index), text) for index, text in enumerate(texts)]
            name = f"{voice.speaker}_{chapter.name}"
            (chapter / f"{name}.trans.tsv").write_text("".join(f"{id_}\t{text}\t{text}\n" for id_, text in rows))
            (chapter / f"{name}.book.tsv").write_text("".join(f"{id_}\t{text}\t0\t0\t0\t0.0\n" for id_, text in rows))
        lines = [
            f"{voice.speaker:4s} | {voice.gender} | train-clean-100 | {seconds / 60:5.2f} | espeak-ng {voice.variant}\n"
            for voice, seconds in self._train_seconds.items()
        ]
        (self._folder / "SPEAKERS.txt").write_text("".join([";ID  |SEX| SUBSET          |MINUTES| NAME\n", *lines]))

    def _draw(self, split: str, voice: Voice) -> tuple[str, np.ndarray]:
        shortest_seconds, longest_seconds = (2.5, 4) if split == "test-clean" else (2, 10)
        double_share = 0 if split == "test-clean" else 0.2
        is_short = split == "train-clean-100" and self._choice.random() < _SHORT_SHARE
        if is_short:
            shortest_seconds = _SHORTEST_SECONDS
        while True:
            if is_short:
                text = fill(self._choice.choice(SHORT_TEMPLATES), self._choice)
            else:
                text = next(self._sentences)
                if self._choice.random() < double_share:
                    text += " " + next(self._sentences)
            audio = self._espeak.speak(text, voice)
            if shortest_seconds <= len(audio) / SAMPLE_RATE_HZ <= longest_seconds:
                return text, audio

    def _chapter(self, split: str, voice: Voice) -> Path:
        number = {"train-clean-100": 1, "dev-clean": 2, "test-clean": 3}[split]
        return self._folder / split / voice.speaker / f"{number}{voice.speaker}"

    def _id(self, split: str, voice: Voice, index: int) -> str:
        return f"{voice.speaker}_{self._chapter(split, voice).name}_{index:06d}_000000"
