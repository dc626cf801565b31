"""Clips that the codec is trained on: audio with the phones of its text, in batches of clips of similar length."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from config.codec_schema import CodecTrainSettings
from processors.custom import read_custom
from processors.frontends import build_phonemizer
from utils.audio import read_audio, read_duration_seconds
from utils.config import resolve_path
from utils.errors import UserError
from utils.files import write_json
from utils.log import log, progress_bar

# Clips are sorted by length within so many batches.
_BATCHES_PER_SORT = 16
# Recordings differ in level, and the codec should not.
_GAIN_DB = (-9.0, 6.0)


@dataclass(frozen=True)
class TrainingClip:
    """A clip of a manifest; `phones` are ids from 1 on, 0 is the blank of connectionist temporal classification."""

    audio: str
    seconds: float
    phones: tuple[int, ...]
    weight: float


@dataclass(frozen=True)
class ClipBatch:
    """audio (B, N), zero after each row's `codes_lens` (B,) frames; phones are joined, `phone_lens` (B,) long."""

    audio: Tensor
    codes_lens: Tensor
    phones: Tensor
    phone_lens: Tensor


def load_clips(settings: CodecTrainSettings, root: Path, cache: Path) -> list[TrainingClip]:
    """The clips of all manifests, without those that are too long. What was read is kept in the file `cache`.

    Raises UserError if a manifest is missing, has a row that cannot be used, or has no clip that is short enough.
    """
    paths = [resolve_path(name, root) for name in settings.manifests]
    stamp = [settings.language, *(f"{path} {path.stat().st_mtime if path.is_file() else 0}" for path in paths)]
    if cache.is_file():
        kept = json.loads(cache.read_text(encoding="utf-8"))
        if kept["stamp"] == stamp:
            return _within(kept["rows"], settings)
    rows: list[list[Any]] = []
    for number, path in enumerate(paths):
        if not path.is_file():
            raise UserError(f"train.manifests: {path} is not a file")
        found = list(read_custom(path))
        with progress_bar(total=len(found), desc=path.name, unit="clip") as bar:
            for row in found:
                problem = row.problem or (None if row.text else "no text")
                if problem or row.duration_seconds is not None:
                    raise UserError(
                        f"train.manifests: {path}: {row.id}: {problem or 'a part of a file'}; remove the row"
                    )
                rows.append([row.audio_path, read_duration_seconds(Path(row.audio_path)), row.text, number])
                bar.update()
    phones = build_phonemizer("espeak", settings.language).phonemize([row[2] for row in rows])
    table = {phone: i + 1 for i, phone in enumerate(sorted({p for row in phones for p in row if p.isalpha()}))}
    kept_rows = [
        [audio, seconds, [table[phone] for phone in row if phone in table], number]
        for (audio, seconds, _, number), row in zip(rows, phones, strict=True)
    ]
    write_json(cache, {"stamp": stamp, "rows": kept_rows})
    return _within(kept_rows, settings)


def _within(rows: list[list], settings: CodecTrainSettings) -> list[TrainingClip]:
    clips = [
        TrainingClip(audio, seconds, tuple(phones), settings.weights[number])
        for audio, seconds, phones, number in rows
        if seconds <= settings.max_seconds and phones
    ]
    if not clips:
        raise UserError(f"train.max_seconds: no clip is at most {settings.max_seconds:g} s long")
    log.info("%d of %d clips, %.1f h", len(clips), len(rows), sum(clip.seconds for clip in clips) / 3600)
    return clips


def batches(
    clips: Sequence[TrainingClip], settings: CodecTrainSettings, rate_hz: int, hop_samples: int, first_step: int
) -> Iterator[ClipBatch]:
    """Endless batches; those from `first_step` on are the same whether or not the steps before were drawn."""
    source = _Batches(clips, settings, rate_hz, hop_samples, first_step)
    # By default the loader draws its seed from the global generator, whose state a resumed training restores.
    yield from DataLoader(source, batch_size=None, num_workers=1, prefetch_factor=8, generator=torch.Generator())


class _Batches(torch.utils.data.IterableDataset[ClipBatch]):
    def __init__(
        self,
        clips: Sequence[TrainingClip],
        settings: CodecTrainSettings,
        rate_hz: int,
        hop_samples: int,
        first_step: int,
    ) -> None:
        self._clips, self._settings, self._first_step = clips, settings, first_step
        self._rate_hz, self._hop_samples = rate_hz, hop_samples
        self._weights = [clip.weight for clip in clips]

    def __iter__(self) -> Iterator[ClipBatch]:
        torch.set_num_threads(1)
        size = self._settings.batch_size
        group, skipped = divmod(self._first_step, _BATCHES_PER_SORT)
        while True:
            # Each group of batches has its own seed, so that a resumed training need not draw the ones before.
            choice = random.Random(f"{self._settings.random_seed} {group}")
            drawn = choice.choices(self._clips, self._weights, k=size * _BATCHES_PER_SORT)
            drawn.sort(key=lambda clip: clip.seconds)
            parts = [drawn[i : i + size] for i in range(0, len(drawn), size)]
            choice.shuffle(parts)
            gains = [[choice.uniform(*_GAIN_DB) for _ in part] for part in parts]
            for part, row in list(zip(parts, gains, strict=True))[skipped:]:
                yield collate([self._read(clip, gain) for clip, gain in zip(part, row, strict=True)], self._hop_samples)
            group, skipped = group + 1, 0

    def _read(self, clip: TrainingClip, gain_db: float) -> tuple[Tensor, tuple[int, ...]]:
        audio = read_audio(Path(clip.audio), self._rate_hz)
        # A gain that would clip is lowered.
        gain = min(10 ** (gain_db / 20), 0.99 / float(audio.abs().max().clamp(min=1e-3)))
        return audio * gain, clip.phones


def collate(rows: Sequence[tuple[Tensor, tuple[int, ...]]], hop_samples: int) -> ClipBatch:
    """A batch of audio (N,) and phones; audio is padded to whole code frames."""
    lens = torch.tensor([-(-len(audio) // hop_samples) for audio, _ in rows])
    audio = pad_sequence([audio for audio, _ in rows], batch_first=True)
    audio = torch.nn.functional.pad(audio, (0, int(lens.max()) * hop_samples - audio.shape[1]))
    phones = torch.tensor([phone for _, row in rows for phone in row])
    return ClipBatch(audio, lens, phones, torch.tensor([len(row) for _, row in rows]))
