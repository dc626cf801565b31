"""Training data from a disk: an epoch with an empty page cache, the first batch, memory, and a rank's share."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

from benchmarks.measure import MIB, Row, peak_memory
from benchmarks.training import FRAME_RATE_HZ, made_up_utterances, train_data
from config.schema import ValleExperiment
from processors.manifest import list_shards, write_shard
from training.pools import PoolReader
from training.sequence import Position
from utils.remote import MachineCache

SHARD_SIZE = 1000
NUM_RANKS = 8
_WORKERS = (1, 2, 4)
# Shards of the corpus on disk, more than one pool holds, without and with --full.
_NUM_SHARDS, _FULL_SHARDS = 16, 100


@dataclass(frozen=True)
class Reading:
    """What reading took: seconds to the first batch, seconds and tokens of all, MiB at the peak and MiB from the disk.

    `disk_mib` is None where the system does not count, as for a folder in memory.
    """

    first_seconds: float
    seconds: float
    num_tokens: int
    peak_mib: float
    disk_mib: float | None


def rows(settings: ValleExperiment, full: bool) -> list[Row]:
    """On LibriTTS-like lengths: 100 thousand utterances where it is full, and their index ten times over."""
    num_shards = _FULL_SHARDS if full else _NUM_SHARDS
    settings = with_training(settings, shards_per_pool=64 if full else 6)
    with tempfile.TemporaryDirectory() as folder:
        shards = write_corpus(Path(folder) / "written" / "train", num_shards)
        files_mib = sum(path.stat().st_size for path in Path(shards[0]).parent.iterdir()) / MIB
        many = repeat(shards, Path(folder) / "repeated" / "train", 10 * num_shards)
        job = f"{num_shards * SHARD_SIZE:,} utterances on disk ({files_mib:.0f} MiB)"
        found = [_epoch_row(settings, shards, num_workers, job) for num_workers in _WORKERS]
        found += _size_rows(settings, shards, many)
        found.append(_share_row(settings, shards, files_mib, job))
    return found


def with_training(settings: ValleExperiment, **changes: object) -> ValleExperiment:
    return settings.model_copy(update={"train": settings.train.model_copy(update=changes)})


def _epoch_row(settings: ValleExperiment, shards: Sequence[str], num_workers: int, job: str) -> Row:
    """The clock starts before the index is read, and nothing of the corpus is in memory then."""
    reading = alone(read, settings, shards, num_workers)
    note = "the system does not count" if reading.disk_mib is None else f"{reading.disk_mib:.0f} MiB from the disk"
    rate = reading.num_tokens / reading.seconds
    return Row(f"{job}: an epoch, {num_workers} workers", reading.seconds, rate, "token/s", note=note)


def _size_rows(settings: ValleExperiment, shards: Sequence[str], many: Sequence[str]) -> list[Row]:
    """The first batches of a corpus and of one ten times as large."""
    made, peaks = [], []
    for of_size in (shards, many):
        reading = alone(read, settings, of_size, 0, 200)
        peaks.append(reading.peak_mib)
        job = f"{len(of_size) * SHARD_SIZE:,} utterances: first batch"
        is_met = reading.first_seconds <= 10
        made.append(Row(job, reading.first_seconds, peak_mib=reading.peak_mib, goal="at most 10 s", goal_met=is_met))
    growth = peaks[1] / peaks[0]
    made.append(
        Row(
            f"{len(many) * SHARD_SIZE:,} utterances: memory by that of {len(shards) * SHARD_SIZE:,}",
            rate=growth,
            unit="x",
            goal="at most 1.2 x",
            goal_met=growth <= 1.2,
        )
    )
    return made


def _share_row(settings: ValleExperiment, shards: Sequence[str], files_mib: float, job: str) -> Row:
    """What the rank that reads most reads from the disk, where eight ranks of a machine train together."""
    context = multiprocessing.get_context("spawn")
    evict(shards)
    barrier = context.Barrier(NUM_RANKS)
    with ProcessPoolExecutor(NUM_RANKS, context, _set_barrier, (barrier,)) as ranks:
        # Each waits for the others, so that every process takes one.
        shares = [ranks.submit(read_share, settings, shards, rank) for rank in range(NUM_RANKS)]
        readings = [share.result() for share in shares]
    name = f"{job}: bytes that one of {NUM_RANKS} ranks reads"
    goal = f"at most 1/7 of {files_mib:.0f} MiB"
    read_mib = [reading.disk_mib for reading in readings if reading.disk_mib]
    if len(read_mib) < NUM_RANKS:
        return Row(name, goal=goal, note="the system does not count")
    share = max(read_mib) / files_mib
    return Row(name, max(r.seconds for r in readings), max(read_mib), "MiB", None, None, None, goal, share <= 1 / 7)


_barrier: Barrier | None = None


def _set_barrier(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def alone(work: Callable[..., Reading], settings: ValleExperiment, shards: Sequence[str], *others: object) -> Reading:
    """Run `read` in a new process, whose memory is its own, with nothing of the shards in the page cache."""
    evict(shards)
    # Not multiprocessing's pool, whose processes must not start workers.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, settings, shards, *others).result()


def read(
    settings: ValleExperiment,
    shards: Sequence[str],
    num_workers: int,
    num_steps: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Reading:
    """An epoch of one rank's batches, or the first steps of one, from the index on."""
    settings = with_training(settings, max_epoch=1 if num_steps is None else settings.train.max_epoch, max_steps=None)
    before = _disk_bytes()
    with peak_memory() as peak:
        started = time.perf_counter()
        pools = PoolReader(MachineCache(), rank, world_size)
        data = replace(train_data(settings, shards, num_workers), rank=rank, world_size=world_size, pool_reader=pools)
        # As a training begins: with the number of its steps.
        all_steps = data.num_steps(Position())
        first_seconds, num_tokens = None, 0
        for batches in data.steps(Position(), all_steps if num_steps is None else num_steps):
            first_seconds = first_seconds or time.perf_counter() - started
            num_tokens += sum(batch.num_tokens for batch in batches)
        seconds = time.perf_counter() - started
        pools.close(wait=True)
    read_bytes = _disk_bytes() - before
    disk_mib = read_bytes / MIB if read_bytes else None
    return Reading(first_seconds or seconds, seconds, num_tokens, peak.before + (peak.mib or 0), disk_mib)


def read_share(settings: ValleExperiment, shards: Sequence[str], rank: int) -> Reading:
    """An epoch of one of the ranks of a machine, which begin together."""
    assert _barrier is not None
    _barrier.wait()
    return read(settings, shards, num_workers=0, rank=rank, world_size=NUM_RANKS)


def _disk_bytes() -> int:
    """What this process and its ended workers have read from disks; 0 where the system does not count."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes")), 0)


def evict(shards: Sequence[str]) -> None:
    """Take all files of these shards out of the page cache, so that they are read from the disk again."""
    if not hasattr(os, "posix_fadvise"):
        return
    for folder in {Path(shard).parent for shard in shards}:
        for path in folder.iterdir():
            with path.open("rb") as file:
                # Pages that are not on the disk yet cannot be dropped.
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_corpus(folder: Path, num_shards: int) -> list[str]:
    """Shards of LibriTTS-like lengths."""
    utterances = made_up_utterances(num_shards * SHARD_SIZE)
    for shard in range(num_shards):
        write_shard(folder, shard, [next(utterances) for _ in range(SHARD_SIZE)], FRAME_RATE_HZ)
    return list_shards(folder)


def repeat(written: Sequence[str], folder: Path, num: int) -> list[str]:
    """So many shards, each a link to a written one: a large corpus's index, and files that are read again."""
    folder.mkdir(parents=True)
    for index in range(num):
        source = Path(written[index % len(written)])
        for path in source.parent.glob(f"*.{source.name.split('.')[1]}.*"):
            kind, _, suffix = path.name.split(".", 2)
            os.link(path, folder / f"{kind}.{index:06d}.{suffix}")
    return list_shards(folder)
