"""The plan of an epoch: each utterance once, within bounds, whoever reads it and wherever it begins."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.schema import TrainSettings
from models.valle.collate import Collator, PrefixMode
from tests.conftest import tiny_train
from training.corpus import IndexedCorpus
from training.data import evenly_chosen, plan_validation
from training.plan import PlannedBatch, plan_epoch
from training.sequence import BatchSequence, Position
from utils.remote import MachineCache

COLLATOR = Collator(num_quantizers=8, prefix_mode=PrefixMode.OTHER_SEGMENT, max_prompt_frames=225, for_nar=True)
HEADER = 2


def num_positions(num_phones: np.ndarray, num_frames: np.ndarray) -> np.ndarray:
    return COLLATOR.num_positions(num_phones + HEADER, num_frames)


def made_up_corpus(
    sizes: Sequence[int],
    seed: int = 0,
    num_speakers: int = 5,
    folders: Sequence[str] = ("data/vctk/train",),
    num_frames: np.ndarray | None = None,
    speaker: np.ndarray | None = None,
) -> IndexedCorpus:
    """An index in memory alone: shards of so many utterances, in turn of each folder."""
    rng, num = np.random.default_rng(seed), sum(sizes)
    num_frames = rng.integers(10, 300, num) if num_frames is None else num_frames
    nothing = np.zeros(num, np.int64)
    return IndexedCorpus(
        shards=[f"{folders[shard % len(folders)]}/cuts.{shard:06d}.jsonl.gz" for shard in range(len(sizes))],
        cache=MachineCache(),
        first=np.cumsum([0, *sizes]),
        codes_offset=nothing,
        codes_size=nothing,
        num_frames=num_frames.astype(np.int32),
        num_phones=np.maximum(num_frames // 6, 1).astype(np.int32),
        first_phone=nothing,
        speaker=rng.integers(0, num_speakers, num).astype(np.int32) if speaker is None else speaker,
        symbols=[()] * len(sizes),
    )


def libritts_like(num: int, seed: int = 0) -> np.ndarray:
    """Frames of utterances whose seconds are log-normal, of 0.5 to 14."""
    seconds = np.random.default_rng(seed).lognormal(math.log(4.7), 0.62, 2 * num)
    return (75 * seconds[(seconds >= 0.5) & (seconds <= 14)][:num]).astype(np.int64)


CORPORA = st.builds(
    made_up_corpus,
    st.lists(st.integers(1, 40), min_size=1, max_size=9),
    seed=st.integers(0, 99),
    num_speakers=st.integers(1, 9),
)
SETTINGS = st.builds(
    tiny_train,
    use_dynamic_batchsize=st.booleans(),
    batch_size=st.integers(1, 9),
    max_tokens=st.integers(50, 3000),
    max_sentences=st.integers(1, 12),
    shards_per_pool=st.one_of(st.none(), st.integers(1, 5)),
    join_probability=st.sampled_from([0.0, 0.5, 1.0]),
    random_seed=st.integers(-5, 5),
    max_epoch=st.integers(1, 4),
    gradient_accumulation_step=st.integers(1, 3),
)


def sequence_of(corpus: IndexedCorpus, train: TrainSettings) -> BatchSequence:
    return BatchSequence(corpus, train, num_positions, with_others=True)


def same(some: PlannedBatch, other: PlannedBatch) -> bool:
    arrays = ("numbers", "joined", "others")
    return some.seed == other.seed and all(np.array_equal(getattr(some, a), getattr(other, a)) for a in arrays)


@given(corpus=CORPORA, train=SETTINGS, epoch=st.integers(0, 5))
def test_each_utterance_comes_once_an_epoch(corpus: IndexedCorpus, train: TrainSettings, epoch: int) -> None:
    plan = plan_epoch(corpus, train, num_positions, epoch)
    assert sorted(plan.numbers.tolist()) == list(range(len(corpus)))
    assert plan.first[0] == 0 and plan.first[-1] == len(corpus) and (np.diff(plan.first) > 0).all()
    again = plan_epoch(corpus, train, num_positions, epoch)
    assert np.array_equal(plan.numbers, again.numbers) and np.array_equal(plan.first, again.first)


@given(corpus=CORPORA, train=SETTINGS)
def test_a_batch_never_exceeds_its_bounds(corpus: IndexedCorpus, train: TrainSettings) -> None:
    """Joined utterances and the prepended segments included; only a single utterance may be longer than the bound."""
    plan = plan_epoch(corpus, train, num_positions, 0)
    for index in range(len(plan)):
        batch = plan.batch(index, None)
        joined = batch.joined >= 0
        phones = corpus.num_phones[batch.numbers] + joined * (1 + corpus.num_phones[batch.joined])
        frames = corpus.num_frames[batch.numbers] + joined * corpus.num_frames[batch.joined]
        longest = num_positions(phones, frames).max()
        if not train.use_dynamic_batchsize:
            assert len(batch.numbers) <= train.batch_size
        else:
            assert len(batch.numbers) <= train.max_sentences
            assert longest * len(batch.numbers) <= train.max_tokens or (len(joined) == 1 and not joined.any())


@given(corpus=CORPORA, train=SETTINGS, world_size=st.integers(1, 8), data=st.data())
def test_ranks_share_the_rest_of_the_sequence_from_any_position(
    corpus: IndexedCorpus, train: TrainSettings, world_size: int, data: st.DataObject
) -> None:
    """All have equally many batches, and together every one of the sequence, but for fewer than a step needs."""
    sequence = sequence_of(corpus, train)
    whole = list(sequence.batches(Position()))
    done = data.draw(st.integers(0, len(whole)))
    start = sequence.after(Position(), done)
    per_step = world_size * train.gradient_accumulation_step
    num_steps = sequence.num_left(start) // per_step
    assert sequence.num_left(start) == len(whole) - done < (num_steps + 1) * per_step
    ranks = [
        list(islice(sequence_of(corpus, train).batches(start), rank, num_steps * per_step, world_size))
        for rank in range(world_size)
    ]
    assert {len(own) for own in ranks} == {num_steps * train.gradient_accumulation_step}
    shares = [batch for turn in zip(*ranks, strict=True) for batch in turn]
    expected = whole[done : done + num_steps * per_step]
    assert len(shares) == len(expected)
    for (position, batch), (expected_position, expected_batch) in zip(shares, expected, strict=True):
        assert position == expected_position and same(batch, expected_batch)


@given(corpus=CORPORA, train=SETTINGS, weight=st.sampled_from([0.3, 1.0, 2.0, 2.5]))
def test_batches_are_counted_without_a_plan(corpus: IndexedCorpus, train: TrainSettings, weight: float) -> None:
    train = train.model_copy(update={"dataset_weights": {"vctk": weight}})
    sequence = sequence_of(corpus, train)
    for epoch in range(5):
        assert sequence.num_batches(epoch) == len(plan_epoch(corpus, train, num_positions, epoch))


@given(corpus=CORPORA, train=SETTINGS)
def test_positions_are_where_the_batches_are(corpus: IndexedCorpus, train: TrainSettings) -> None:
    sequence = sequence_of(corpus, train)
    positions = [position for position, _ in sequence.batches(Position())]
    assert positions == sorted(set(positions))
    assert [sequence.after(Position(), num) for num in range(len(positions))] == positions
    assert sequence.after(Position(), len(positions)) == Position(train.max_epoch, 0)


@given(corpus=CORPORA, train=SETTINGS, seed=st.integers(0, 9))
def test_partners_are_other_utterances_of_the_speaker(corpus: IndexedCorpus, train: TrainSettings, seed: int) -> None:
    plan = plan_epoch(corpus, train, num_positions, seed, with_others=True)
    num_of_speaker = Counter(corpus.speaker.tolist())
    for partners in (plan.joined, plan.others):
        has_one = partners >= 0
        assert (corpus.speaker[partners[has_one]] == corpus.speaker[plan.numbers[has_one]]).all()
        assert (partners[has_one] != plan.numbers[has_one]).all()
    alone = np.array([num_of_speaker[int(speaker)] == 1 for speaker in corpus.speaker[plan.numbers]])
    # A segment of what is joined would show frames that are to be predicted.
    drawn_twice = (plan.others < 0) & ~alone
    assert (plan.others[alone] < 0).all() and (plan.joined[drawn_twice] >= 0).all()
    assert ((plan.others != plan.joined) | (plan.others < 0)).all()


def test_partners_come_from_all_utterances_of_the_speaker_in_a_folder_and_from_the_pool_behind_a_url() -> None:
    train = tiny_train(shards_per_pool=2)
    for folder, is_remote in (("data/vctk/train", False), ("s3://store/vctk/train", True)):
        corpus = made_up_corpus([20] * 6, num_speakers=1, folders=[folder])
        drawn, outside = set(), 0
        for epoch in range(60):
            plan = plan_epoch(corpus, train, num_positions, epoch, with_others=True)
            drawn |= set(zip(plan.numbers.tolist(), plan.others.tolist(), strict=True))
            for index in range(len(plan)):
                batch = plan.batch(index, None)
                shards = np.searchsorted(corpus.first, batch.others, "right") - 1
                outside += (~np.isin(shards, plan.shards_of[batch.pool])).sum()
        assert (outside == 0) == is_remote
        first = {other for number, other in drawn if number == 0}
        # 60 draws among 119, or among the 39 of its pool.
        assert len(first) > (20 if is_remote else 35)


def test_a_third_of_draws_falls_to_each_of_three_others() -> None:
    corpus = made_up_corpus([4], num_speakers=1)
    train = tiny_train()
    plans = (plan_epoch(corpus, train, num_positions, epoch, with_others=True) for epoch in range(600))
    pairs = Counter(pair for plan in plans for pair in zip(plan.numbers.tolist(), plan.others.tolist(), strict=True))
    assert len(pairs) == 12 and min(pairs.values()) > 150 and max(pairs.values()) < 250


def test_padding_is_at_most_five_per_cent_on_lengths_as_in_libritts() -> None:
    num_frames = libritts_like(30_000)
    corpus = made_up_corpus([1000] * 30, num_frames=num_frames)
    for changes in ({}, {"max_tokens": 20_000, "max_sentences": 100, "shards_per_pool": 8}):
        plan = plan_epoch(corpus, tiny_train(**{"max_tokens": 4000, **changes}), num_positions, 0)
        lengths = num_positions(corpus.num_phones, corpus.num_frames)[plan.numbers]
        longest = np.maximum.reduceat(lengths, plan.first[:-1])
        padded = (longest * np.diff(plan.first)).sum()
        assert 1 - lengths.sum() / padded < 0.05
        # And batches are full: another utterance would seldom fit.
        assert np.median(longest * (np.diff(plan.first) + 1)) > 0.95 * changes.get("max_tokens", 4000)


def test_5000_consecutive_batches_see_the_speakers_of_a_large_corpus() -> None:
    """Of 2,300 speakers with 20 to 290 utterances each, in shards that are ordered by a hash."""
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(2300, dtype=np.int32), rng.integers(20, 290, 2300))
    speaker = rng.permutation(speaker)[: len(speaker) // 1000 * 1000]
    sizes = [1000] * (len(speaker) // 1000)
    corpus = made_up_corpus(sizes, num_frames=libritts_like(len(speaker)), speaker=speaker)
    plan = plan_epoch(corpus, tiny_train(max_tokens=4000), num_positions, 0)
    assert len(plan) > 30_000
    for first in range(0, len(plan) - 5000, 5000):
        seen = np.unique(speaker[plan.numbers[plan.first[first] : plan.first[first + 5000]]])
        assert len(seen) >= 0.95 * 2300


def test_epochs_seeds_and_pools_change_the_batches() -> None:
    corpus = made_up_corpus([50] * 8)
    plans = [
        plan_epoch(corpus, tiny_train(max_tokens=2000, **changes), num_positions, epoch)
        for epoch, changes in ((0, {}), (1, {}), (0, {"random_seed": 9}), (0, {"shards_per_pool": 2}))
    ]
    batches = [{frozenset(plan.batch(i, None).numbers.tolist()) for i in range(len(plan))} for plan in plans]
    for other in batches[1:]:
        # Hardly any batch of several utterances comes again.
        assert len(batches[0] & other) < 0.2 * len(batches[0])


def test_a_pool_is_read_before_the_next_begins() -> None:
    corpus = made_up_corpus([30] * 10)
    plan = plan_epoch(corpus, tiny_train(shards_per_pool=4), num_positions, 0)
    assert sorted(shard for shards in plan.shards_of for shard in shards) == list(range(10))
    assert len(plan.shards_of) == 3 and max(map(len, plan.shards_of)) <= 4
    assert (np.diff(plan.pool) >= 0).all()
    for index in range(len(plan)):
        batch = plan.batch(index, None)
        assert set(np.searchsorted(corpus.first, batch.numbers, "right") - 1) <= set(plan.shards_of[batch.pool])
    sequence = sequence_of(corpus, tiny_train(shards_per_pool=4, max_epoch=2))
    following = [sequence.shards_of_pools(epoch, pool) for epoch in (0, 1) for pool in range(3)]
    assert all(before[1] == after[0] for before, after in pairwise(following))
    assert following[-1][1] == []


@pytest.mark.parametrize("shards_per_pool", [1, 3, None])
def test_weights_mix_corpora_as_asked(shards_per_pool: int | None) -> None:
    folders = ["data/ljspeech/train", "data/vctk/train"]
    corpus = made_up_corpus([10] * 10, folders=folders)
    train = tiny_train(dataset_weights={"ljspeech": 0.25, "vctk": 2.0}, shards_per_pool=shards_per_pool)
    of_ljspeech = np.repeat(np.arange(10) % 2 == 0, 10)
    epochs = [plan_epoch(corpus, train, num_positions, epoch).numbers for epoch in range(8)]
    for numbers in epochs:
        counts = np.bincount(numbers, minlength=100)
        assert 12 <= counts[of_ljspeech].sum() <= 13 and (counts[~of_ljspeech] == 2).all()
    total = sum(np.bincount(numbers, minlength=100) for numbers in epochs)
    assert (total[of_ljspeech] == 2).all()
    half = tiny_train(dataset_weights={"ljspeech": 0.5})
    alone = [plan_epoch(made_up_corpus([10], folders=folders), half, num_positions, epoch) for epoch in range(4)]
    assert [len(plan.numbers) for plan in alone] == [5, 5, 5, 5]
    assert sorted([*alone[0].numbers, *alone[1].numbers]) == list(range(10))


def test_the_count_of_batches_may_end_early() -> None:
    sequence = sequence_of(made_up_corpus([20]), tiny_train(max_epoch=10**9))
    assert sequence.num_left(Position(), at_most=5) >= 5


def test_validation_is_chosen_evenly_over_corpora_and_speakers() -> None:
    """One speaker of many utterances, and a corpus of many shards, take no more than their turn."""
    sizes, folders = [200, 10, 200, 10], ["data/vctk/valid", "data/ljspeech/valid"]
    speaker = np.concatenate([np.repeat([0, 1, 2, 3], [170, 10, 10, 10]), [4] * 10, [0] * 200, [4] * 10])
    corpus = made_up_corpus(sizes, folders=folders, speaker=speaker.astype(np.int32))
    first = evenly_chosen(corpus)
    assert sorted(first.tolist()) == list(range(420))
    assert Counter(corpus.speaker[first[:32]].tolist()) == {0: 4, 1: 4, 2: 4, 3: 4, 4: 16}
    for changes in ({"max_tokens": 2000}, {"use_dynamic_batchsize": False, "batch_size": 4}):
        train = tiny_train(valid_max_batches=8, **changes)
        batches = plan_validation(corpus, train, num_positions, with_others=True)
        assert len(batches) == 8 and all(batch.seed is None for batch in batches)
        numbers = np.concatenate([batch.numbers for batch in batches])
        assert set(numbers) == set(first[: len(numbers)]) and set(corpus.speaker[numbers]) == {0, 1, 2, 3, 4}
        others = np.concatenate([batch.others for batch in batches])
        assert (corpus.speaker[others] == corpus.speaker[numbers]).all() and (others != numbers).all()
    everything = plan_validation(corpus, tiny_train(valid_max_batches=1000), num_positions, with_others=False)
    assert sum(len(batch.numbers) for batch in everything) == 420
