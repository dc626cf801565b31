"""An epoch as a table of batches: a pure function of the index, the settings and the epoch's number."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

import numpy as np

from config.schema import TrainSettings
from processors.manifest import corpus_of
from training.corpus import IndexedCorpus
from utils.remote import is_url

NumPositions: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From numbers of phones and frames (N,) to the positions (N,) that examples take in a batch at most."""
# Lengths are rounded up to steps of 3 %: utterances of one step are shuffled, so that batches differ between epochs.
_LENGTH_STEP = 1.03


@dataclass(frozen=True, order=True)
class Position:
    """A place in the sequence of all epochs' batches: `batch` is the next one of `epoch`."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True)
class PlannedBatch:
    """The utterance numbers (N,) of a batch, and for each the number that it is joined with and that of the utterance
    that its prepended segment comes from; -1 for none.

    `seed` is for what is drawn when the batch is collated; None draws nothing. `pool` is the batch's pool.
    """

    numbers: np.ndarray
    joined: np.ndarray
    others: np.ndarray
    seed: str | None
    pool: int = 0


@dataclass(frozen=True)
class EpochPlan:
    """B batches of N utterances: batch b holds `numbers[first[b]:first[b + 1]]`.

    `pool` (B,) is each batch's pool, in ascending order; `shards_of` lists the shards of each pool.
    """

    numbers: np.ndarray
    joined: np.ndarray
    others: np.ndarray
    first: np.ndarray
    pool: np.ndarray
    shards_of: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.first) - 1

    def batch(self, index: int, seed: str | None) -> PlannedBatch:
        part = slice(self.first[index], self.first[index + 1])
        return PlannedBatch(self.numbers[part], self.joined[part], self.others[part], seed, int(self.pool[index]))


def plan_epoch(
    corpus: IndexedCorpus, settings: TrainSettings, num_positions: NumPositions, epoch: int, with_others: bool = False
) -> EpochPlan:
    """The batches of an epoch.

    Shards are read in pools of `shards_per_pool`, in random order; within a pool utterances of like length form
    batches, in random order. With `with_others` each utterance gets another one of its speaker.
    """
    seed = settings.random_seed % 2**32
    rng = np.random.default_rng([seed, epoch])
    pieces = list(_pieces_of_epoch(corpus, settings, epoch))
    order = rng.permutation(len(pieces))
    num_pools = math.ceil(len(pieces) / (settings.shards_per_pool or max(len(pieces), 1)))
    tables, shards_of, num_before = [], [], 0
    for pool, chosen in enumerate(np.array_split(order, num_pools) if num_pools else ()):
        parts = [pieces[index] for index in chosen]
        numbers = rng.permutation(np.concatenate([np.arange(first, last) for _, first, last in parts]))
        joined = others = np.full(len(numbers), -1)
        # Random streams of their own, so that no draw of partners changes the order of utterances.
        if settings.join_probability:
            joined = _draw_joined(
                corpus, settings, num_positions, numbers, np.random.default_rng([seed, epoch, pool, 1])
            )
        if with_others:
            others = other_utterances(np.random.default_rng([seed, epoch, pool, 2]), corpus, numbers)
        lengths = _lengths(corpus, num_positions, numbers, joined)
        order_in_pool, first = group_by_length(lengths, settings)
        batches = rng.permutation(len(first) - 1)
        sizes = np.diff(first)[batches]
        starts = np.cumsum([0, *sizes])
        # All utterances of batch `batches[0]`, then all of `batches[1]`, and so on.
        within = np.repeat(first[batches] - starts[:-1], sizes) + np.arange(len(numbers))
        laid_out = order_in_pool[within]
        columns = (
            numbers[laid_out],
            joined[laid_out],
            others[laid_out],
            num_before + starts[1:],
            np.full(len(sizes), pool),
        )
        tables.append([column.astype(np.int32) for column in columns])
        shards_of.append([shard for shard, _, _ in parts])
        num_before += len(numbers)
    tables.append([np.zeros(0, np.int32)] * 5)
    numbers, joined, others, ends, pools = (np.concatenate(column) for column in zip(*tables, strict=True))
    return EpochPlan(numbers, joined, others, np.concatenate([[0], ends]), pools, shards_of)


def _pieces_of_epoch(corpus: IndexedCorpus, settings: TrainSettings, epoch: int) -> Iterator[tuple[int, int, int]]:
    """The shards of an epoch, each with the range of utterance numbers that the epoch takes of it.

    The shards of a corpus, shuffled once, form a ring; an epoch goes on where the one before it ended, and takes
    `dataset_weights` times the corpus.
    """
    weights = {str(name): weight for name, weight in settings.dataset_weights.items()}
    by_corpus: dict[str, list[int]] = defaultdict(list)
    for shard, cuts in enumerate(corpus.shards):
        by_corpus[corpus_of(cuts)].append(shard)
    for index, (name, shards) in enumerate(by_corpus.items()):
        ring = np.random.default_rng([settings.random_seed % 2**32, index]).permutation(shards).tolist()
        sizes = [int(corpus.first[shard + 1] - corpus.first[shard]) for shard in ring]
        share = weights.get(name, 1.0) * sum(sizes)
        # Rounded up, so that the first epoch has something of each corpus.
        begin, end = math.ceil(share * epoch), math.ceil(share * (epoch + 1))
        position = begin - begin % max(sum(sizes), 1)
        for place in count():
            if position >= end or not sum(sizes):
                break
            shard, size = ring[place % len(ring)], sizes[place % len(ring)]
            low, high = max(begin - position, 0), min(end - position, size)
            if low < high:
                yield shard, int(corpus.first[shard]) + low, int(corpus.first[shard]) + high
            position += size


def _draw_joined(
    corpus: IndexedCorpus,
    settings: TrainSettings,
    num_positions: NumPositions,
    numbers: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """For each utterance the one of its speaker that it is joined with, or -1.

    Two utterances that would be longer than `max_tokens` together are not joined.
    """
    is_joined = rng.random(len(numbers)) < settings.join_probability
    joined = np.where(is_joined, other_utterances(rng, corpus, numbers), -1)
    if settings.use_dynamic_batchsize:
        is_too_long = _lengths(corpus, num_positions, numbers, joined) > settings.max_tokens
        joined = np.where(is_too_long, -1, joined)
    return joined


def other_utterances(rng: np.random.Generator, corpus: IndexedCorpus, numbers: np.ndarray) -> np.ndarray:
    """For each utterance of a pool another one of its speaker, drawn uniformly; -1 where the speaker has no other.

    In a folder all utterances are candidates. Behind a URL only those of the pool are: the machine has no other shards.
    """
    candidates = corpus.by_speaker
    if is_url(corpus.shards[0]):
        candidates = candidates[np.isin(candidates, numbers)]
    speakers, own = corpus.speaker[candidates], corpus.speaker[numbers]
    first, last = np.searchsorted(speakers, own, "left"), np.searchsorted(speakers, own, "right")
    # Draw among all but the speaker's last one, which takes the place of the utterance itself.
    drawn = candidates[first + (rng.random(len(numbers)) * np.maximum(last - first - 1, 1)).astype(np.int64)]
    drawn = np.where(drawn == numbers, candidates[last - 1], drawn)
    return np.where(last - first > 1, drawn, -1)


def _lengths(corpus: IndexedCorpus, num_positions: NumPositions, numbers: np.ndarray, joined: np.ndarray) -> np.ndarray:
    """Positions of each example, as long as it may become."""
    num_phones, num_frames = corpus.num_phones[numbers], corpus.num_frames[numbers]
    is_joined = joined >= 0
    # One more phone: the word boundary between two utterances.
    num_phones = num_phones + is_joined * (1 + corpus.num_phones[joined])
    num_frames = num_frames + is_joined * corpus.num_frames[joined]
    return num_positions(num_phones, num_frames)


def group_by_length(lengths: np.ndarray, settings: TrainSettings) -> tuple[np.ndarray, np.ndarray]:
    """An order of N examples, and where each batch of it begins, with N at the end.

    With `use_dynamic_batchsize` the longest come first, and a batch has as many of at most `max_sentences` as fit into
    `max_tokens` when padded to its longest; one that is longer is a batch of its own. Else the order stays, and each
    batch has `batch_size`.
    """
    num = len(lengths)
    if not settings.use_dynamic_batchsize:
        return np.arange(num), np.array([*range(0, num, settings.batch_size), num])
    steps = np.unique(
        np.ceil(_LENGTH_STEP ** np.arange(1 + math.log(max(lengths.max(initial=1), 1), _LENGTH_STEP) + 1))
    )
    rounded = steps[np.searchsorted(steps, lengths)].astype(np.int64)
    order = np.argsort(-rounded, kind="stable")
    room = np.minimum(settings.max_sentences, np.maximum(1, settings.max_tokens // rounded[order])).tolist()
    first, place = [], 0
    while place < num:
        first.append(place)
        place += room[place]
    return order, np.array([*first, num])


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
        # The last plans that were made: a training goes from one to the next.
        self._plans: dict[int, EpochPlan] = {}

    def plan(self, epoch: int) -> EpochPlan:
        if epoch not in self._plans:
            planned = plan_epoch(self.corpus, self.settings, self.num_positions, epoch, self.with_others)
            self._plans = {other: plan for other, plan in self._plans.items() if other == epoch - 1}
            self._plans[epoch], self._sizes[epoch] = planned, len(planned)
        return self._plans[epoch]

    def num_batches(self, epoch: int) -> int:
        if epoch not in self._sizes:
            # The other utterance of each speaker changes no length.
            self._sizes[epoch] = len(plan_epoch(self.corpus, self.settings, self.num_positions, epoch))
        return self._sizes[epoch]

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

    def pools(self, epoch: int, pool: int) -> tuple[list[str], list[str]]:
        """The shards of a pool, and those of the pool after it, which may be the first of the next epoch."""
        following = self.plan(epoch).shards_of[pool + 1 :]
        if not following and epoch + 1 < self.settings.max_epoch:
            following = self.plan(epoch + 1).shards_of
        pools = [self.plan(epoch).shards_of[pool], following[0] if following else []]
        of_pool, of_next = ([self.corpus.shards[shard] for shard in shards] for shards in pools)
        return of_pool, of_next
