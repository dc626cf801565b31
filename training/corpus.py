"""All utterances of all shards: numbered, indexed in memory, and read from disk one at a time."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from processors.index import (
    codes_location,
    forget_open_files,
    index_location,
    phones_location,
    read_codes,
    read_index,
    read_phones,
)
from processors.manifest import corpus_of
from utils.errors import UserError
from utils.remote import MachineCache, is_url

# Indexes that are read, or downloaded, at a time.
_THREADS = 8


@dataclass(frozen=True)
class IndexedCorpus:
    """N utterances, 28 bytes of each in memory: their phones and codes stay on disk.

    `shards` (S) holds the path or URL of each shard's `cuts` file.

    Utterance numbers run from 0 through the shards; shard s has those from `first[s]` to `first[s + 1]`. `speaker`
    (N,) numbers the speakers of all corpora together.
    """

    shards: Sequence[str]
    cache: MachineCache
    first: np.ndarray
    codes_offset: np.ndarray
    codes_size: np.ndarray
    num_frames: np.ndarray
    num_phones: np.ndarray
    first_phone: np.ndarray
    speaker: np.ndarray
    symbols: Sequence[tuple[str, ...]]

    @classmethod
    def load(cls, shards: Sequence[str], cache: MachineCache | None = None) -> "IndexedCorpus":
        """Read the index of each shard, a path or a URL of its `cuts` file. Raises UserError where one is missing."""
        cache = cache or MachineCache()
        # Stage 1 may have rewritten the shards since they were last read.
        forget_open_files()
        try:
            with ThreadPoolExecutor(_THREADS) as threads:
                indexes = list(threads.map(lambda shard: read_index(cache.path(index_location(shard))), shards))
        except UserError as error:
            if not is_url(shards[0]):
                raise
            raise UserError(f"{error}; if it is missing, run stage 1 again on the folder and copy it again") from error
        speaker_ids: dict[str, int] = {}
        speakers = []
        for shard, index in zip(shards, indexes, strict=True):
            # Speakers of different corpora stay apart.
            names = [f"{corpus_of(shard)}/{name}" for name in index.speaker_names]
            ids = np.array([speaker_ids.setdefault(name, len(speaker_ids)) for name in names], np.int32)
            speakers.append(ids[index.speaker])

        def joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
            return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype, copy=False)

        return cls(
            shards=list(shards),
            cache=cache,
            first=np.cumsum([0, *(len(index.num_frames) for index in indexes)]),
            codes_offset=joined([index.codes_offset for index in indexes], np.int64),
            codes_size=joined([index.codes_size for index in indexes], np.int32),
            num_frames=joined([index.num_frames for index in indexes], np.int32),
            num_phones=joined([index.num_phones for index in indexes], np.int32),
            first_phone=joined([np.cumsum(index.num_phones) - index.num_phones for index in indexes], np.int32),
            speaker=joined(speakers, np.int32),
            symbols=[tuple(index.symbols.tolist()) for index in indexes],
        )

    def __len__(self) -> int:
        return len(self.num_frames)

    def read(self, number: int) -> tuple[list[str], np.ndarray]:
        """The phones and the codes (T, Q) of an utterance. Raises UserError where its shard is damaged."""
        shard = int(np.searchsorted(self.first, number, side="right")) - 1
        cuts, symbols = self.shards[shard], self.symbols[shard]
        in_phones = int(self.first_phone[number]), int(self.num_phones[number])
        in_codes = (int(column[number]) for column in (self.codes_offset, self.codes_size, self.num_frames))
        try:
            ids = read_phones(self.cache.path(phones_location(cuts)), *in_phones)
            codes = read_codes(self.cache.path(codes_location(cuts)), *in_codes)
        except FileNotFoundError as error:
            if is_url(cuts):
                # The pool was dropped just now: download the files again.
                return self.read(number)
            raise UserError(f"{error.filename}: missing; run stage 1 again") from error
        return [symbols[index] for index in ids], codes

    @cached_property
    def by_speaker(self) -> np.ndarray:
        """All utterance numbers (N,), sorted by speaker."""
        return np.argsort(self.speaker, kind="stable").astype(np.int32)
