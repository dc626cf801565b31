"""Reads the shards of a pool before their batches are due, so that disks and networks are read in large pieces."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from processors.index import codes_location, phones_location
from utils.errors import UserError
from utils.remote import MachineCache, is_url

_THREADS = 2
_PIECE_BYTES = 1 << 20


@dataclass
class PoolReader:
    """Reads ahead this rank's part of each pool; the `local_world_size` ranks of a machine share the shards.

    Shards behind a URL are downloaded into the cache. Shards in a folder are read once from start to end, which leaves
    them in the system's page cache, where the random reads of all ranks then find them.
    """

    cache: MachineCache = field(default_factory=MachineCache)
    local_rank: int = 0
    local_world_size: int = 1
    _entered: list[Sequence[str]] = field(default_factory=list)
    _begun: set[str] = field(default_factory=set)
    _threads: ThreadPoolExecutor | None = None

    def enter(self, shards: Sequence[str], next_shards: Sequence[str]) -> None:
        """Begin a pool: start reading it and the next one, and drop the pool two before it."""
        self._entered.append(shards)
        if len(self._entered) > 2:
            # Workers of this or other ranks may still read the previous pool.
            dropped = self._entered.pop(0)
            kept = {shard for of_pool in [*self._entered, next_shards] for shard in of_pool}
            self._begun -= set(dropped) - kept
            for shard in filter(self._is_own, set(dropped) - kept):
                self._for_each_file(shard, self.cache.remove)
        if self._threads is None:
            # Threads begin after the loader has forked its workers, which therefore inherit none of their locks.
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pools")
        for shard in filter(self._is_own, [*shards, *next_shards]):
            if shard not in self._begun:
                self._begun.add(shard)
                self._threads.submit(self._for_each_file, shard, self._read)

    def _is_own(self, shard: str) -> bool:
        """Whether this rank reads the shard: its number decides, so that all ranks read equally much in an epoch."""
        number = int(shard.rsplit("/", 1)[1].split(".")[1])
        return number % self.local_world_size == self.local_rank

    def _for_each_file(self, shard: str, act: Callable[[str], object]) -> None:
        for location in (codes_location(shard), phones_location(shard)):
            # A worker that needs the file reports what is wrong with it.
            with suppress(UserError, OSError):
                act(location)

    def _read(self, location: str) -> None:
        """Read a file to its end. Nothing is kept here: the cache or the system keeps it."""
        path = self.cache.path(location)
        if not is_url(location):
            with path.open("rb", buffering=0) as file:
                while file.read(_PIECE_BYTES):
                    pass

    def close(self, wait: bool = False) -> None:
        """Stop reading ahead once the current files are read; with `wait`, once all files are."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=not wait)
            self._threads = None
