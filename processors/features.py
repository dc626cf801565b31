"""What stage 1 does with each utterance: read, check, phonemize and encode it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from config.schema import PreprocessSettings
from processors.codecs.base import Codec
from processors.manifest import SourceUtterance, Utterance
from processors.symbols import SymbolTable
from processors.text_to_phones import TextReaders, build_readers, phonemize_each
from utils.audio import read_duration_seconds, read_samples, to_float
from utils.errors import UserError


@dataclass(frozen=True)
class LoadedUtterance:
    """An utterance's audio (N,) and phones, or the reason why it is left out.

    Audio is as of `read_samples`: 16-bit samples stay so from the DataLoader worker to the device of the codec. It
    is an array, as each tensor that a worker sends keeps a file descriptor open.
    """

    row: SourceUtterance
    audio: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    phones: tuple[str, ...] = ()
    failure: str | None = None


class UtteranceReader(Dataset):
    """Reads chunks of utterances in DataLoader workers, while the codec encodes earlier ones."""

    def __init__(
        self, chunks: Sequence[Sequence[SourceUtterance]], settings: PreprocessSettings, table: SymbolTable | None
    ) -> None:
        self.chunks = chunks
        self.settings = settings
        self.table = table

    @cached_property
    def _readers(self) -> TextReaders:
        # Built in the worker that uses it: espeak-ng keeps its state in the process.
        return build_readers(self.settings, self.table)

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> list[LoadedUtterance]:
        return self.load(self.chunks[index])

    def load(self, rows: Sequence[SourceUtterance]) -> list[LoadedUtterance]:
        """Audio and phones of each row, or the reason why it is left out."""
        usable = [row for row in rows if row.problem is None]
        try:
            texts, languages = [row.text or "" for row in usable], [row.language for row in usable]
            phones = iter(phonemize_each(self._readers, texts, languages))
        except Exception as error:  # Whatever fails, only the utterance that causes it is left out.
            if len(rows) == 1:
                return [LoadedUtterance(rows[0], failure=f"the transcript cannot be phonemized: {error}")]
            return [loaded for row in rows for loaded in self.load([row])]
        return [
            self._load(row, tuple(next(phones))) if row.problem is None else LoadedUtterance(row, failure=row.problem)
            for row in rows
        ]

    def _load(self, row: SourceUtterance, phones: tuple[str, ...]) -> LoadedUtterance:
        try:
            self._check_text(row, phones)
            audio = self._read(row)
        except UserError as error:
            return LoadedUtterance(row, failure=str(error))
        except (OSError, ValueError, RuntimeError) as error:
            # For example, a path that no file system accepts.
            return LoadedUtterance(row, failure=f"{row.audio_path}: {error}")
        return LoadedUtterance(row, audio, phones)

    def _check_text(self, row: SourceUtterance, phones: tuple[str, ...]) -> None:
        if row.text is None:
            raise UserError("no transcript")
        name = f"the transcript ({row.place})" if row.place else "the transcript"
        if refusal := self._readers.reader(row.language).refusal(name, row.text):
            raise UserError(f"{refusal} See preprocess.language")
        if not any(phone.isalnum() for phone in phones):
            raise UserError(f"the transcript {row.text!r} has nothing that can be spoken")
        unknown = [phone for phone in phones if self.table is not None and phone not in self.table]
        if unknown:
            raise UserError(f"phone {unknown[0]!r} is not in {self.settings.symbol_table}")

    def _read(self, row: SourceUtterance) -> np.ndarray:
        path = Path(row.audio_path)
        seconds = row.duration_seconds
        if seconds is None:
            seconds = read_duration_seconds(path) - row.start_seconds
        if seconds < self.settings.min_duration:
            raise UserError(f"{seconds:.2f} s is shorter than min_duration {self.settings.min_duration}")
        if seconds > self.settings.max_duration:
            raise UserError(f"{seconds:.2f} s is longer than max_duration {self.settings.max_duration}")
        audio = read_samples(path, self.settings.sample_rate, row.start_seconds, row.duration_seconds)
        if not audio.any():
            raise UserError("the audio is silent throughout")
        return audio


def encode(
    loaded: Sequence[LoadedUtterance], codec: Codec, batch_seconds: float, device: torch.device
) -> list[Utterance]:
    """Encode utterances in batches of similar length; returns them in the given order."""
    order = sorted(range(len(loaded)), key=lambda index: -len(loaded[index].audio))
    codes: dict[int, np.ndarray] = {}
    while order:
        # The first is the longest, so it determines the size of the batch, padding included.
        longest = len(loaded[order[0]].audio)
        size = max(1, int(batch_seconds * codec.sample_rate_hz / longest))
        batch, order = order[:size], order[size:]
        audio = [torch.from_numpy(loaded[index].audio) for index in batch]
        if len({row.dtype for row in audio}) > 1:
            audio = [to_float(row) for row in audio]
        padded = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True).to(device)
        rows, lens = codec.encode(to_float(padded), torch.tensor([len(row) for row in audio]))
        for index, row, length in zip(batch, rows.cpu(), lens.tolist(), strict=True):
            codes[index] = row[:length].numpy().astype(np.int16)
    return [
        Utterance(
            id=item.row.id, text=item.row.text or "", phones=item.phones, speaker=item.row.speaker, codes=codes[index]
        )
        for index, item in enumerate(loaded)
    ]
