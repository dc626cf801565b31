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


@dataclass(frozen=True)
class PlannedBatch:
    """Utterance numbers (N,) of a batch, from `pool`.

    `joined` (N,) is the utterance appended to each, `others` (N,) the one that its prepended segment is cut from; -1
    for none. `seed` is the seed of what collating draws; None draws nothing.
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
    tables, shards_of, num_before = [], [], 0
    for pool, parts in enumerate(pools_of_epoch(corpus, settings, epoch, rng)):
        numbers = rng.permutation(np.concatenate([np.arange(first, last) for _, first, last in parts]))
        joined, others = np.full(len(numbers), -1), np.full(len(numbers), -1)
        # Random streams of their own, so that no draw of partners changes the order of utterances.
        if settings.join_probability:
            joined = _draw_joined(
                corpus, settings, num_positions, numbers, np.random.default_rng([seed, epoch, pool, 1])
            )
        if with_others:
            others = other_utterances(np.random.default_rng([seed, epoch, pool, 2]), corpus, numbers)
            # A segment of the utterance that is joined would show frames that are to be predicted.
            others = np.where(others == joined, -1, others)
        lengths = _lengths(corpus, num_positions, numbers, joined)
        order, sizes = _shuffled_batches(rng, *group_by_length(lengths, settings))
        of_utterances = [numbers[order], joined[order], others[order]]
        of_batches = [num_before + np.cumsum(sizes), np.full(len(sizes), pool)]
        tables.append([column.astype(np.int32) for column in of_utterances + of_batches])
        shards_of.append([shard for shard, _, _ in parts])
        num_before += len(numbers)
    # An epoch may be empty, where corpora are tiny and their weights small.
    tables.append([np.zeros(0, np.int32)] * 5)
    numbers, joined, others, ends, pools = (np.concatenate(column) for column in zip(*tables, strict=True))
    return EpochPlan(numbers, joined, others, np.concatenate([[0], ends]), pools, shards_of)


def pools_of_epoch(
    corpus: IndexedCorpus, settings: TrainSettings, epoch: int, rng: np.random.Generator
) -> list[list[tuple[int, int, int]]]:
    """The shards of an epoch in pools of equal size; of each shard the range of utterance numbers that it takes."""
    pieces = list(_pieces_of_epoch(corpus, settings, epoch))
    if not pieces:
        return []
    num_pools = math.ceil(len(pieces) / (settings.shards_per_pool or len(pieces)))
    return [[pieces[index] for index in pool] for pool in np.array_split(rng.permutation(len(pieces)), num_pools)]


def _pieces_of_epoch(corpus: IndexedCorpus, settings: TrainSettings, epoch: int) -> Iterator[tuple[int, int, int]]:
    """The shards of an epoch, each with the range of utterance numbers that the epoch takes of it.

    The shards of each corpus, shuffled once, form a ring. An epoch starts where the previous one ended, and takes
    `dataset_weights` times the utterances of the corpus.
    """
    weights = {str(name): weight for name, weight in settings.dataset_weights.items()}
    by_corpus: dict[str, list[int]] = defaultdict(list)
    for shard, cuts in enumerate(corpus.shards):
        by_corpus[corpus_of(cuts)].append(shard)
    for index, (name, shards) in enumerate(by_corpus.items()):
        # Longer than the seed of an epoch's order, which is padded with zeros.
        ring = np.random.default_rng([settings.random_seed % 2**32, index, 0, 3]).permutation(shards).tolist()
        sizes = [int(corpus.first[shard + 1] - corpus.first[shard]) for shard in ring]
        share = weights.get(name, 1.0) * sum(sizes)
        # Rounded up, so that the first epoch has something of each corpus.
        begin, end = math.ceil(share * epoch), math.ceil(share * (epoch + 1))
        if not sum(sizes):
            continue
        # Utterances on the ring before the shard of this turn.
        offset = begin - begin % sum(sizes)
        for turn in count():
            if offset >= end:
                break
            shard, size = ring[turn % len(ring)], sizes[turn % len(ring)]
            low, high = max(begin - offset, 0), min(end - offset, size)
            if low < high:
                yield shard, int(corpus.first[shard]) + low, int(corpus.first[shard]) + high
            offset += size


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
        is_too_long = _lengths(corpus, num_positions, numbers, joined) > settings.tokens_per_batch
        joined = np.where(is_too_long, -1, joined)
    return joined


def other_utterances(rng: np.random.Generator, corpus: IndexedCorpus, numbers: np.ndarray) -> np.ndarray:
    """For each utterance of a pool another one of its speaker, drawn uniformly; -1 where the speaker has no other.

    In a folder all utterances of the speaker are candidates. Behind a URL only those of the pool are: other shards are
    not on the machine.
    """
    candidates = corpus.by_speaker
    if is_url(corpus.shards[0]):
        candidates = candidates[np.isin(candidates, numbers)]
    speakers, own = corpus.speaker[candidates], corpus.speaker[numbers]
    first, last = np.searchsorted(speakers, own, "left"), np.searchsorted(speakers, own, "right")
    # Draw among all of the speaker but the last. If that gives the utterance itself, take the last instead.
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

    With `use_dynamic_batchsize` the longest come first, and a batch has as many as `max_sentences` and `max_tokens`
    allow when padded to its longest, whose length counts as rounded up by at most 3 %. A longer example is a batch of
    its own. Otherwise the order stays, and each batch has `batch_size`.
    """
    num = len(lengths)
    if not settings.use_dynamic_batchsize:
        return np.arange(num), np.array([*range(0, num, settings.batch_size), num])
    steps = length_steps(lengths)
    step_of = np.searchsorted(steps, lengths)
    order = np.argsort(-step_of, kind="stable")
    room = room_of_steps(steps, settings)[step_of[order]].tolist()
    first, place = [], 0
    while place < num:
        first.append(place)
        place += room[place]
    return order, np.array([*first, num])


def _shuffled_batches(rng: np.random.Generator, order: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order (N,) of `group_by_length` with its batches shuffled, and the size (B,) of each batch."""
    batches = rng.permutation(len(first) - 1)
    sizes = np.diff(first)[batches]
    # Where the utterances of batch `batches[0]` were, then those of `batches[1]`, and so on.
    source = np.repeat(first[batches] - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(order))
    return order[source], sizes


def length_steps(lengths: np.ndarray) -> np.ndarray:
    """Ascending lengths, at most 3 % apart, up to the longest. Examples of one step are mixed."""
    num_steps = 2 + math.ceil(math.log(max(lengths.max(initial=1), 1), _LENGTH_STEP))
    return np.unique(np.ceil(_LENGTH_STEP ** np.arange(num_steps))).astype(np.int64)


def room_of_steps(steps: np.ndarray, settings: TrainSettings) -> np.ndarray:
    """How many examples a batch may have whose longest is rounded up to each of the steps."""
    return np.minimum(settings.max_sentences, np.maximum(1, settings.tokens_per_batch // steps))
