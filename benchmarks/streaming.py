"""Training data of a corpus ten times as large: the first batch, a resumed epoch, and the memory of a loader."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.measure import Row, peak_memory
from benchmarks.training import FRAME_RATE_HZ, PHONES, train_data
from config.schema import ValleExperiment
from models.contract import Place
from processors.manifest import Utterance, list_shards, write_shard

SHARD_SIZE, UTTERANCES_PER_SPEAKER = 1000, 100
# Processes that divide the reading among them.
NUM_READERS = 8


@dataclass(frozen=True)
class Reading:
    """What reading an epoch took: seconds to its first batch and to that of its last block, MiB at the peak.

    Rates are utterances a second; `shared_rate` is those of the whole epoch by the seconds of one process's share.
    """

    first_seconds: float
    resumed_seconds: float
    peak_mib: float
    rate: float
    shared_rate: float


def rows(settings: ValleExperiment, full: bool) -> list[Row]:
    """A hundred thousand utterances and, where it is full, a million; else a tenth of both."""
    nums = (100_000, 1_000_000) if full else (10_000, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        written = _write(Path(folder) / "written" / "train", nums[0] // SHARD_SIZE)
        readings = []
        for num in nums:
            shards = _repeat(written, Path(folder) / f"corpus_{num}" / "train", num // SHARD_SIZE)
            # A new process: memory that another reading left behind would count.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                readings.append(pool.apply(read, (settings, shards)))
    made = []
    for num, reading in zip(nums, readings, strict=True):
        job = f"{num:,} short utterances"
        met = reading.first_seconds <= 10
        made.append(Row(f"{job}: first batch", reading.first_seconds, goal="at most 10 s", goal_met=met))
        made.append(Row(f"{job}: first batch of the last block", reading.resumed_seconds))
        made.append(Row(f"{job}: read", rate=reading.rate, unit="utterance/s", peak_mib=reading.peak_mib))
    growth = readings[1].peak_mib / readings[0].peak_mib
    goal = f"at most 1.2 x that of {nums[0]:,}"
    made[-1].goal, made[-1].goal_met, made[-1].note = f"{goal} in memory", growth <= 1.2, f"{growth:.2f} x"
    shared, alone = readings[1].shared_rate, readings[1].rate
    made.append(
        Row(
            f"{nums[1]:,} short utterances: the share of one of {NUM_READERS} processes, alone",
            nums[1] / shared,
            goal=f"at most 1/{NUM_READERS / 2:g} of the time of all",
            goal_met=shared >= alone * NUM_READERS / 2,
            note=f"1/{shared / alone:.1f} of the time",
        )
    )
    return made


def read(settings: ValleExperiment, shards: Sequence[str]) -> Reading:
    """An epoch of batches, built in this process."""
    data = train_data(settings, shards, num_workers=0)
    started = time.perf_counter()
    next(data.batches(0))
    first_seconds = time.perf_counter() - started
    last_block = (len(shards) - 1) // settings.train.shards_per_block
    started = time.perf_counter()
    next(data.batches(0, Place(last_block, 0)))
    resumed_seconds = time.perf_counter() - started
    started = time.perf_counter()
    with peak_memory() as peak:
        num = sum(batch.num_utterances for batch in data.batches(0))
    rate = num / (time.perf_counter() - started)
    shared_rate = num / _seconds_of_first(settings, shards)
    return Reading(first_seconds, resumed_seconds, peak.before + (peak.mib or 0), rate, shared_rate)


def _seconds_of_first(settings: ValleExperiment, shards: Sequence[str]) -> float:
    """An epoch's batches, for the first of the processes that divide it."""
    train = settings.train.model_copy(update={"num_streams": NUM_READERS})
    data = train_data(settings.model_copy(update={"train": train}), shards, num_workers=0)
    started = time.perf_counter()
    for _ in replace(data, world_size=NUM_READERS).batches(0):
        pass
    return time.perf_counter() - started


def _write(folder: Path, num_shards: int) -> list[str]:
    """Shards of short utterances of many speakers."""
    rng = np.random.default_rng(0)
    for shard in range(num_shards):
        utterances = []
        for index in range(shard * SHARD_SIZE, (shard + 1) * SHARD_SIZE):
            num_frames = int(rng.integers(4, 40))
            phones = tuple(rng.choice(PHONES, num_frames // 2).tolist())
            codes = rng.integers(0, 1024, (num_frames, 8)).astype(np.int16)
            speaker = f"s{index // UTTERANCES_PER_SPEAKER}"
            utterances.append(Utterance(f"u{index:07d}", "made up", phones, speaker, codes))
        write_shard(folder, shard, utterances, FRAME_RATE_HZ)
    return list_shards(folder)


def _repeat(written: Sequence[str], folder: Path, num: int) -> list[str]:
    """So many shards, each a link to a written one."""
    folder.mkdir(parents=True)
    for index in range(num):
        source = Path(written[index % len(written)])
        for path in source.parent.glob(f"*.{source.name.split('.')[1]}.*"):
            kind, _, suffix = path.name.split(".", 2)
            os.link(path, folder / f"{kind}.{index:06d}.{suffix}")
    return list_shards(folder)
