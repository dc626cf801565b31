"""The batches of all epochs as one sequence: positions, counts, and the batches from any position on."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from config.schema import TrainSettings
from training.corpus import IndexedCorpus
from training.plan import (
    EpochPlan,
    NumPositions,
    PlannedBatch,
    length_steps,
    plan_epoch,
    pools_of_epoch,
    room_of_steps,
)


@dataclass(frozen=True, order=True)
class Position:
    """A place in the sequence of all epochs' batches: `batch` is the next one of `epoch`."""

    epoch: int = 0
    batch: int = 0


class BatchSequence:
    """The batches of all epochs up to `max_epoch` as one sequence, which a training may begin anywhere."""

    def __init__(
        self, corpus: IndexedCorpus, settings: TrainSettings, num_positions: NumPositions, with_others: bool
    ) -> None:
        self.corpus = corpus
        self.settings = settings
        self.num_positions = num_positions
        self.with_others = with_others
        self._sizes: dict[int, int] = {}
        # The plans of the current and the next epoch.
        self._plans: dict[int, EpochPlan] = {}
        # Of each whole shard how many utterances have each length step.
        self._counts_of_shards: dict[int, np.ndarray] = {}

    def plan(self, epoch: int) -> EpochPlan:
        if epoch not in self._plans:
            planned = plan_epoch(self.corpus, self.settings, self.num_positions, epoch, self.with_others)
            self._plans = {other: plan for other, plan in self._plans.items() if other == epoch - 1}
            self._plans[epoch], self._sizes[epoch] = planned, len(planned)
        return self._plans[epoch]

    def num_batches(self, epoch: int) -> int:
        if epoch not in self._sizes:
            self._sizes[epoch] = self._count_batches(epoch)
        return self._sizes[epoch]

    def _count_batches(self, epoch: int) -> int:
        """The number of an epoch's batches, without the plan where no utterances are joined."""
        settings = self.settings
        if settings.join_probability:
            return len(plan_epoch(self.corpus, settings, self.num_positions, epoch))
        num_batches = 0
        rng = np.random.default_rng([settings.random_seed % 2**32, epoch])
        for parts in pools_of_epoch(self.corpus, settings, epoch, rng):
            if settings.use_dynamic_batchsize:
                counts = np.sum([self._counts(*part) for part in parts], axis=0)
                num_batches += count_batches(counts.tolist(), room_of_steps(self._steps_of[0], settings).tolist())
            else:
                num_batches += math.ceil(sum(last - first for _, first, last in parts) / settings.batch_size)
        return num_batches

    @cached_property
    def _steps_of(self) -> tuple[np.ndarray, np.ndarray]:
        """Length steps, and the step (N,) of each utterance of the corpus."""
        lengths = self.num_positions(self.corpus.num_phones, self.corpus.num_frames)
        steps = length_steps(lengths)
        return steps, np.searchsorted(steps, lengths).astype(np.int16)

    def _counts(self, shard: int, first: int, last: int) -> np.ndarray:
        """How many utterances of a shard's range have each length step."""
        steps, step_of = self._steps_of
        is_whole = first == self.corpus.first[shard] and last == self.corpus.first[shard + 1]
        if is_whole and shard in self._counts_of_shards:
            return self._counts_of_shards[shard]
        counts = np.bincount(step_of[first:last], minlength=len(steps))
        if is_whole:
            self._counts_of_shards[shard] = counts
        return counts

    def num_left(self, start: Position, at_most: int | None = None) -> int:
        """How many batches follow `start`; the count may end once there are `at_most`."""
        num = 0
        for epoch in range(start.epoch, self.settings.max_epoch):
            num += self.num_batches(epoch) - (start.batch if epoch == start.epoch else 0)
            if at_most is not None and num >= at_most:
                break
        return max(num, 0)

    def after(self, start: Position, num: int) -> Position:
        """The position `num` batches after `start`. The end of an epoch is the beginning of the next."""
        epoch, batch = start.epoch, start.batch + num
        while epoch < self.settings.max_epoch and batch >= self.num_batches(epoch):
            batch -= self.num_batches(epoch)
            epoch += 1
        return Position(epoch, batch)

    def batches(self, start: Position) -> Iterator[tuple[Position, PlannedBatch]]:
        """Every batch from `start` on, with its own position."""
        for epoch in range(start.epoch, self.settings.max_epoch):
            plan = self.plan(epoch)
            for index in range(start.batch if epoch == start.epoch else 0, len(plan)):
                yield Position(epoch, index), plan.batch(index, f"{self.settings.random_seed} {epoch} {index}")

    def shards_of_pools(self, epoch: int, pool: int) -> tuple[list[str], list[str]]:
        """The shards of a pool, and those of the pool after it, which may be the first of the next epoch."""
        following = self.plan(epoch).shards_of[pool + 1 :]
        if not following and epoch + 1 < self.settings.max_epoch:
            following = self.plan(epoch + 1).shards_of
        pools = [self.plan(epoch).shards_of[pool], following[0] if following else []]
        of_pool, of_next = ([self.corpus.shards[shard] for shard in shards] for shards in pools)
        return of_pool, of_next


def count_batches(counts: Sequence[int], room: Sequence[int]) -> int:
    """How many batches `group_by_length` makes of so many examples of each length step, in the same order."""
    num_batches = free = 0
    for num, size in zip(reversed(counts), reversed(room), strict=True):
        # The last batch of longer examples is filled up first.
        rest = num - min(num, free)
        free -= num - rest
        if rest:
            num_batches += -(-rest // size)
            free = -rest % size
    return num_batches
