"""Stage 1: its overhead beside the codec, its rate without one, batches against single files, and phonemization."""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import soundfile
import torch

from benchmarks.measure import Row, peak_memory, seconds_of, seconds_once
from benchmarks.synthetic_corpus import write_synthetic_corpus
from config.schema import PreprocessSettings
from processors.codecs.base import Codec
from processors.codecs.encodec import Encodec, build_encodec
from processors.demo_sentences import sentences
from processors.pipeline import CorpusPreprocessor
from processors.reports import Shard
from processors.text_to_phones import TextToPhones
from utils.paths import ROOT

NUM_TEXTS, NUM_PROCESSES, CHUNK = 8000, 2, 16
# Utterances of stage 1 without a codec: the corpus, again and again, in shards of the usual size.
NUM_UTTERANCES, SHARD_SIZE = 8000, 1000


def rows(settings: PreprocessSettings, device: torch.device, full: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "LibriTTS"
        write_synthetic_corpus(corpus, minutes=15 if full or device.type == "cuda" else 2)
        overhead, encodec = _overhead_row(settings, corpus, Path(folder), device)
        batched = Row("codec in batches, GPU", goal="at least 20 x one file at a time", note="not measured")
        if device.type == "cuda":
            batched = _batched_row(encodec)
        without_codec = _rows_without_codec(settings, corpus, Path(folder), NUM_UTTERANCES * (4 if full else 1))
    return [overhead, *without_codec, batched, _phones_row(settings)]


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


class InstantCodec(Codec):
    """Returns codes at once, all 0. Records the times at the first batch of each `SHARD_SIZE` utterances."""

    sample_rate_hz, hop_samples, num_codebooks, codebook_size = 24000, 320, 8, 1024
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.times: list[tuple[float, float | None]] = []
        """Seconds of the clock, and of all processes' CPU time."""
        self.num_utterances = 0

    @classmethod
    def open(cls, settings: PreprocessSettings, own_file: Path | None, root: Path) -> "InstantCodec":
        return cls()

    def encode(self, audio: torch.Tensor, audio_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.num_utterances >= len(self.times) * SHARD_SIZE:
            self.times.append((time.perf_counter(), _cpu_seconds()))
        self.num_utterances += len(audio)
        codes_lens = (audio_lens + self.hop_samples - 1) // self.hop_samples
        codes = torch.zeros(len(audio), int(codes_lens.max()), self.num_codebooks, dtype=torch.int64)
        return codes, codes_lens

    def to(self, device: torch.device | str) -> "InstantCodec":
        self.device = torch.device(device)
        return self

    def fingerprint(self) -> str:
        return "instant"

    def _encode(self, audio: torch.Tensor, codes_lens: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _decode(self, codes: torch.Tensor, codes_lens: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def _cpu_seconds() -> float | None:
    """CPU time of this process and its workers so far; None if the system does not report that of workers."""
    seconds = time.process_time()
    try:
        for worker in multiprocessing.active_children():
            # The command's name, in parentheses, may have spaces: utime and stime are the 12th and 13th field after it.
            values = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return None
    return seconds


def _rows_without_codec(settings: PreprocessSettings, corpus: Path, folder: Path, num_utterances: int) -> list[Row]:
    """Utterances per second that 1 and 2 workers read, phonemize and write where the codec takes no time."""
    flac = _as_flac(corpus, folder / "flac" / "LibriTTS")
    rows = []
    for name, place in (("WAV", corpus), ("FLAC", flac)):
        rates = []
        for num_workers in (1, 2):
            rate, cores = _rate_without_codec(settings, place, folder / "data", num_workers, num_utterances)
            rates.append(rate)
            row = Row(f"stage 1 without a codec, {name}, {num_workers} worker{'s'[: num_workers - 1]}", rate=rate)
            row.unit = "utterances/s"
            row.note = "" if cores is None else f"{cores:.2f} cores busy"
            rows.append(row)
        rows[-1].speedup = rates[1] / rates[0]
    return rows


def _rate_without_codec(
    settings: PreprocessSettings, corpus: Path, folder: Path, num_workers: int, num_utterances: int
) -> tuple[float, float | None]:
    """Utterances per second, and busy cores, from the start of the second shard to that of the last.

    The start of the workers is left out, and each shard has its time of writing.
    """
    settings = settings.model_copy(update={"num_workers": num_workers})
    stage = CorpusPreprocessor("libritts", corpus, folder, ROOT, settings)
    again = stage.rows * (num_utterances // len(stage.rows) + 1)
    stage.shards = [
        Shard("train", index, again[first : first + SHARD_SIZE], stage.folder)
        for index, first in enumerate(range(0, num_utterances, SHARD_SIZE))
    ]
    codec = InstantCodec()
    stage.run(codec, codec.device, lambda: None)
    shutil.rmtree(folder)
    (start, cpu_at_start), (end, cpu_at_end) = codec.times[1], codec.times[-1]
    cores = None if cpu_at_start is None or cpu_at_end is None else (cpu_at_end - cpu_at_start) / (end - start)
    return (len(codec.times) - 2) * SHARD_SIZE / (end - start), cores


def _as_flac(corpus: Path, target: Path) -> Path:
    """A copy of a corpus, with FLAC in files of the same names: the reader goes by what is in a file."""
    shutil.copytree(corpus, target)
    for path in target.rglob("*.wav"):
        samples, rate_hz = soundfile.read(path, dtype="int16")
        soundfile.write(path, samples, rate_hz, format="FLAC")
    return target


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
