"""Stage 1: its overhead beside the codec, batches of audio against single files, and phonemization."""

import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.measure import Row, peak_memory, seconds_of, seconds_once
from benchmarks.synthetic_corpus import write_synthetic_corpus
from config.schema import PreprocessSettings
from processors.codecs.encodec import Encodec, build_encodec
from processors.demo_sentences import sentences
from processors.pipeline import CorpusPreprocessor
from processors.text_to_phones import TextToPhones
from utils.paths import ROOT

NUM_TEXTS, NUM_PROCESSES, CHUNK = 8000, 2, 16


def rows(settings: PreprocessSettings, device: torch.device, full: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "LibriTTS"
        write_synthetic_corpus(corpus, minutes=15 if full or device.type == "cuda" else 2)
        overhead, encodec = _overhead_row(settings, corpus, Path(folder), device)
        batched = Row("codec in batches, GPU", goal="at least 20 x one file at a time", note="not measured")
        if device.type == "cuda":
            batched = _batched_row(encodec)
    return [overhead, batched, _phones_row(settings)]


class Recorder(Encodec):
    """EnCodec that records its input batches. Its random weights take as long as trained ones."""

    def __init__(self) -> None:
        super().__init__(build_encodec())
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.is_recording = True

    def encode(self, audio: torch.Tensor, audio_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.is_recording:
            self.batches.append((audio, audio_lens))
        return super().encode(audio, audio_lens)

    def replay(self) -> None:
        """Encode all recorded batches again, and do nothing else."""
        self.is_recording = False
        for audio, audio_lens in self.batches:
            codes, _ = self.encode(audio, audio_lens)
            codes.cpu()


def _overhead_row(
    settings: PreprocessSettings, corpus: Path, folder: Path, device: torch.device
) -> tuple[Row, Recorder]:
    codec = Recorder()
    codec.to(device)

    def prepare() -> None:
        CorpusPreprocessor("libritts", corpus, folder / "data", ROOT, settings).run(codec, device, lambda: None)
        shutil.rmtree(folder / "data")

    # The first run warms up and records. The two then alternate, as the machine's speed varies.
    prepare()
    stage, codec_alone = [], []
    for _ in range(3):
        codec_alone.append(seconds_once(codec.replay))
        with peak_memory() as peak:
            stage.append(seconds_once(prepare))
    seconds, alone = min(stage), min(codec_alone)
    audio_seconds = sum(int(lens.sum()) for _, lens in codec.batches) / codec.sample_rate_hz
    goal = f"at most 1.15 x the codec alone ({alone:.1f} s)"
    ratio = seconds / alone
    job = f"stage 1, EnCodec, {settings.num_workers} workers"
    unit = "x real time"
    return Row(job, seconds, audio_seconds / seconds, unit, peak.mib, None, ratio, goal, ratio <= 1.15), codec


def _batched_row(codec: Recorder) -> Row:
    with peak_memory() as peak:
        together = seconds_of(codec.replay, repeats=1)
    rows = [
        row[None, :length] for audio, lens in codec.batches for row, length in zip(audio, lens.tolist(), strict=True)
    ]
    sample = rows[:: max(1, len(rows) // 100)]
    single = seconds_once(lambda: [codec.encode(row, torch.tensor([row.shape[1]]))[0].cpu() for row in sample])
    audio_seconds = sum(row.shape[1] for row in rows) / codec.sample_rate_hz
    ratio = single * audio_seconds / (sum(row.shape[1] for row in sample) / codec.sample_rate_hz) / together
    goal, unit = "at least 20 x one file at a time", "x real time"
    return Row(
        "codec in batches, GPU", together, audio_seconds / together, unit, peak.mib, ratio, None, goal, ratio >= 20
    )


def _phones_row(settings: PreprocessSettings) -> Row:
    texts = list(islice(sentences(0), NUM_TEXTS))
    share = NUM_TEXTS // NUM_PROCESSES
    with ProcessPoolExecutor(NUM_PROCESSES, mp_context=get_context("spawn")) as pool:
        parts = [(settings, texts[i * share :][:share]) for i in range(NUM_PROCESSES)]
        list(pool.map(_phonemize, [(settings, part[:CHUNK]) for _, part in parts]))
        seconds = seconds_once(lambda: list(pool.map(_phonemize, parts)))
    rate = NUM_TEXTS / seconds
    job, goal = f"phones, {NUM_PROCESSES} processes", "at least 10,000 texts a second"
    return Row(job, seconds, rate, "text/s", None, None, None, goal, rate >= 10000)


def _phonemize(part: tuple[PreprocessSettings, Sequence[str]]) -> None:
    settings, texts = part
    phonemizer = TextToPhones.from_settings(settings)
    for first in range(0, len(texts), CHUNK):
        phonemizer.phonemize(texts[first : first + CHUNK])
