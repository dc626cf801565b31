"""Batches: what is in them, their order, and that nothing but seed, epoch and place decides it."""

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from config.schema import TrainSettings
from models.contract import START, Batch, Place
from models.valle.collate import IGNORED, Collator
from processors.frontends.graphemes import GraphemePhonemizer
from processors.manifest import Utterance, list_shards, read_shards, write_shard
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from tests.conftest import made_up_utterances, tiny_train
from training import examples
from training.data import TrainData, in_step
from training.examples import join
from utils.errors import UserError

TABLE = SymbolTable.from_phones("abcdefgh_")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("shards")
    utterances = made_up_utterances(50)
    for index in range(5):
        write_shard(folder, index, utterances[10 * index : 10 * index + 10], frame_rate_hz=25)
    return list_shards(folder)


def data(shards, settings: TrainSettings, **changes) -> TrainData:
    collator = Collator(num_quantizers=4, prefix_mode=1, max_prompt_frames=75, for_nar=True)
    tokenizer = TextTokenizer(GraphemePhonemizer, TABLE, add_blank=False)
    return replace(TrainData(shards, shards[:1], tokenizer, collator, settings), **changes)


def same(some: list[Batch], others: list[Batch]) -> bool:
    return len(some) == len(others) and all(
        torch.equal(a.codes, b.codes)
        and torch.equal(a.text, b.text)
        and a.nar[0].stage == b.nar[0].stage
        and torch.equal(a.nar[0].targets, b.nar[0].targets)
        for a, b in zip(some, others, strict=True)
    )


def test_shards_give_back_what_was_written(shards) -> None:
    for written, read in zip(made_up_utterances(50), read_shards(shards), strict=True):
        assert (written.id, written.text, written.phones, written.speaker) == (
            read.id,
            read.text,
            read.phones,
            read.speaker,
        )
        assert (written.codes == read.codes).all() and read.codes.dtype == written.codes.dtype


@pytest.mark.parametrize("dynamic", [True, False])
def test_each_utterance_once_an_epoch_in_bounded_batches(shards, dynamic: bool) -> None:
    settings = tiny_train(use_dynamic_batchsize=dynamic, max_tokens=150, max_sentences=6, batch_size=7)
    batches = list(data(shards, settings).batches(epoch=0))
    assert sum(batch.num_utterances for batch in batches) == 50
    assert sum(batch.num_frames for batch in batches) == sum(len(u.codes) for u in made_up_utterances(50))
    if dynamic:
        assert max(batch.num_utterances for batch in batches) <= 6
        assert all(
            len(batch.text) == 1 or int((batch.text_lens + batch.codes_lens).max()) * len(batch.text) <= 150
            for batch in batches
        )
    else:
        assert [batch.num_utterances for batch in batches] == [7] * 7 + [1]


def test_an_utterance_that_is_longer_than_a_batch_may_be_is_a_batch_of_its_own(shards) -> None:
    batches = list(data(shards, tiny_train(max_tokens=15)).batches(epoch=0))
    assert [batch.num_utterances for batch in batches] == [1] * 50
    assert min(batch.longest for batch in batches) > 15


def test_bucketed_batches_hold_less_padding(shards) -> None:
    def padding(dynamic: bool) -> float:
        settings = tiny_train(use_dynamic_batchsize=dynamic, batch_size=6, max_sentences=6, max_tokens=300)
        batches = list(data(shards, settings).batches(epoch=0))
        return 1 - sum(b.num_tokens for b in batches) / sum(b.text.numel() + b.codes[..., 0].numel() for b in batches)

    assert padding(True) < 0.7 * padding(False)


def test_loader_processes_change_nothing_and_epochs_differ(shards) -> None:
    orders = [
        list(data(shards, tiny_train(dataloader={"num_worker": num}, join_probability=0.5)).batches(epoch=1))
        for num in (0, 1, 2)
    ]
    assert same(orders[0], orders[1]) and same(orders[0], orders[2])
    plain = data(shards, tiny_train())
    assert not same(list(plain.batches(epoch=0)), list(plain.batches(epoch=1)))
    assert not same(list(plain.batches(0)), list(data(shards, tiny_train(random_seed=9)).batches(0)))


@pytest.mark.parametrize("shards_per_block", [1, 2, 9])
def test_an_epoch_goes_on_where_it_was_left(shards, shards_per_block: int) -> None:
    source = data(shards, tiny_train(join_probability=0.3, shards_per_block=shards_per_block))
    whole = list(source.batches(epoch=2))
    assert len({batch.end.block for batch in whole}) == -(-5 // shards_per_block)
    for done in (1, 3, len(whole) // 2, len(whole)):
        assert same(list(source.batches(2, whole[done - 1].end)), whole[done:])


def test_shards_before_the_place_are_not_read(shards, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(Path(shards[0]).parent, tmp_path / "corpus" / "train"))
    # Buckets would have their lengths measured on the first block.
    source = data(list_shards(folder), tiny_train(shards_per_block=2, use_dynamic_batchsize=False, batch_size=3))
    whole = list(source.batches(0))
    done = 1 + next(place for place, batch in enumerate(whole) if batch.end.block == 1)
    for shard in source._epoch_shards(0)[:2]:
        Path(shard).write_bytes(b"gone")
    assert 0 < done < len(whole) and same(list(source.batches(0, whole[done - 1].end)), whole[done:])
    with pytest.raises(UserError, match=r"damaged \(.*run stage 1 again"):
        list(source.batches(0))


def test_the_fingerprint_tells_data_apart_but_not_where_they_lie(shards, tmp_path: Path) -> None:
    folder = Path(shards[0]).parent
    moved = list_shards(Path(shutil.copytree(folder, tmp_path / folder.parent.name / folder.name)))
    source = data(shards, tiny_train(dataset_weights={"vctk": 1.0}))
    assert data(moved, source.settings).fingerprint() == source.fingerprint()
    others = [data(shards[1:], source.settings), data(shards, tiny_train()), data(shards, tiny_train(random_seed=9))]
    others.append(data(shards, tiny_train(dataset_weights={"vctk": 1.0}, shards_per_block=2)))
    others.append(data(shards, tiny_train(dataset_weights={"vctk": 1.0}, num_streams=2)))
    assert len({other.fingerprint() for other in [source, *others]}) == 6


def in_turns(
    shards: Sequence[str], settings: TrainSettings, world_size: int, start: Place = START
) -> list[tuple[Batch, ...]]:
    """What the processes of a training get, turn by turn; threads stand for them."""
    failures: list[BaseException] = []
    values, meeting = [0] * world_size, threading.Barrier(world_size)

    def greatest(rank: int, value: int) -> int:
        values[rank] = value
        meeting.wait()
        found = max(values)
        meeting.wait()
        return found

    def of(rank: int) -> list[Batch]:
        try:
            batches = data(shards, settings, rank=rank, world_size=world_size).batches(0, start)
            return list(in_step(batches, world_size, partial(greatest, rank)))
        except BaseException as error:
            # Nobody waits for one that has failed.
            meeting.abort()
            failures.append(error)
            raise

    with ThreadPoolExecutor(world_size) as pool:
        results = [pool.submit(of, rank) for rank in range(world_size)]
    if failures:
        # The first is the cause of the others.
        raise failures[0]
    return list(zip(*(result.result() for result in results), strict=True))


def counting(turns: Sequence[tuple[Batch, ...]]) -> list[Batch]:
    return [batch for turn in turns for batch in turn if not batch.is_filler]


@pytest.mark.parametrize("world_size", [2, 3, 4, 7])
@pytest.mark.parametrize("num_streams", [1, 2, 3])
def test_processes_share_an_epoch(shards, num_streams: int, world_size: int) -> None:
    """All get equally many batches, and those that count are those of one process, in its order."""
    settings = tiny_train(shards_per_block=3, num_streams=num_streams, max_sentences=4)
    whole = list(data(shards, settings).batches(0))
    turns = in_turns(shards, settings, world_size)
    assert same(counting(turns), whole) and sum(batch.num_utterances for batch in counting(turns)) == 50
    assert all(len({batch.end for batch in turn}) == 1 and counting([turn]) for turn in turns)
    assert not any(batch.is_filler for batch in whole)


@pytest.mark.parametrize("num_streams", [1, 2, 3])
def test_another_number_of_processes_goes_on_at_the_same_place(shards, num_streams: int) -> None:
    settings = tiny_train(shards_per_block=3, num_streams=num_streams, max_sentences=4)
    whole = list(data(shards, settings).batches(0))
    turns = in_turns(shards, settings, 3)
    for num_done in range(1, len(turns) + 1):
        place = turns[num_done - 1][0].end
        rest = whole[len(counting(turns[:num_done])) :]
        assert same(list(data(shards, settings).batches(0, place)), rest)
        assert same(counting(in_turns(shards, settings, 2, place)), rest)


def test_processes_divide_the_reading_of_streams(shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shard is read by one process; with a single stream by all."""
    read: list[str] = []

    def noted(paths: Sequence[str]) -> Iterator[Utterance]:
        read.extend(paths)
        return read_shards(paths)

    monkeypatch.setattr(examples, "read_shards", noted)
    for num_streams, times in ((2, 1), (1, 2)):
        # Buckets would have their lengths measured on the first block.
        settings = tiny_train(shards_per_block=4, num_streams=num_streams, use_dynamic_batchsize=False, batch_size=3)
        read.clear()
        in_turns(shards[:4], settings, 2)
        assert Counter(read) == Counter(shards[:4] * times)


def test_loader_processes_change_nothing_where_processes_share_streams(shards) -> None:
    orders = []
    for num in (0, 2):
        settings = tiny_train(shards_per_block=3, num_streams=2, max_sentences=4, dataloader={"num_worker": num})
        orders.append(list(data(shards, settings, rank=1, world_size=4).batches(1)))
    assert same(*orders)
    assert [batch.ends_block for batch in orders[0]] == [batch.ends_block for batch in orders[1]]
    assert [batch.end for batch in orders[0]] == [batch.end for batch in orders[1]]


@pytest.mark.parametrize(("batch_size", "world_size"), [(8, 1), (4, 2), (2, 4)])
def test_steps_of_an_epoch_do_not_depend_on_the_number_of_processes(shards, batch_size: int, world_size: int) -> None:
    settings = tiny_train(use_dynamic_batchsize=False, batch_size=batch_size)
    assert len(in_turns(shards, settings, world_size)) == 7


def test_a_corpus_is_read_as_often_as_its_weight_says(shards, tmp_path: Path) -> None:
    folder = Path(shards[0]).parent
    for corpus in ("ljspeech", "vctk"):
        shutil.copytree(folder, tmp_path / corpus / "train")
    both = [shard for corpus in ("ljspeech", "vctk") for shard in list_shards(tmp_path / corpus / "train")]
    source = data(both, tiny_train(dataset_weights={"ljspeech": 0.5, "vctk": 2.0}))
    epochs = [Counter(source._epoch_shards(epoch)) for epoch in range(4)]
    assert [sum(epoch[shard] for shard in both[:5]) for epoch in epochs] == [3, 2, 3, 2]
    assert [{epoch[shard] for shard in both[5:]} for epoch in epochs] == [{2}] * 4
    assert {sum(epoch[shard] for epoch in epochs) for shard in both[:5]} == {2}
    assert sum(batch.num_utterances for batch in source.batches(0)) == 10 * (3 + 10)
    alone = data(both[:1], tiny_train(dataset_weights={"ljspeech": 0.5}))
    assert [sum(batch.num_utterances for batch in alone.batches(epoch)) for epoch in range(4)] == [10, 0, 10, 0]


def test_shards_are_read_through_a_url(shards, serve: Callable[[Path], str]) -> None:
    """And a server that is out for a moment, or breaks off in the midst of a shard, costs nothing."""
    root = Path(shards[0]).parents[2]
    url = serve(root)
    streamed = [f"{url}/{Path(shard).relative_to(root)}" for shard in shards]
    settings = tiny_train(shards_per_block=2, join_probability=0.3, dataloader={"num_worker": 1})
    whole = list(data(shards, settings).batches(1))
    assert same(list(data(streamed, settings).batches(1)), whole)
    assert same(list(data(streamed, settings).batches(1, whole[3].end)), whole[4:])


def test_a_small_buffer_still_shuffles_and_loses_nothing(shards) -> None:
    settings = tiny_train(shuffle_buffer=5, use_dynamic_batchsize=False, batch_size=1)
    seen = [tuple(batch.codes.flatten().tolist()) for batch in data(shards, settings).batches(0)]
    assert len(set(seen)) == 50
    wanted = [tuple(u.codes.flatten().tolist()) for u in made_up_utterances(50)]
    assert sorted(seen) == sorted(wanted) and seen != wanted


def test_validation_is_fixed(shards) -> None:
    source = data(shards, tiny_train(join_probability=1.0))
    first, second = list(source.valid_batches()), list(source.valid_batches())
    assert same(first, second)
    assert [nar.stage for nar in first[0].nar] == [1, 2, 3]
    assert sum(batch.num_utterances for batch in first) == 10
    assert len(list(data(shards, tiny_train(valid_max_batches=1)).valid_batches())) == 1


def test_joined_examples_are_two_utterances_of_a_speaker(shards) -> None:
    by_codes = {u.codes.tobytes(): u for u in made_up_utterances(50)}
    settings = tiny_train(join_probability=0.5, use_dynamic_batchsize=False, batch_size=1)
    num_joined = 0
    for batch in data(shards, settings).batches(0):
        codes = batch.codes[0].numpy().astype("int16")
        splits = [(codes[:at].tobytes(), codes[at:].tobytes()) for at in range(1, len(codes))]
        found = [(by_codes[a], by_codes[b]) for a, b in splits if a in by_codes and b in by_codes]
        for first, second in found:
            num_joined += 1
            assert first.speaker == second.speaker and first.id != second.id
            assert batch.text[0].tolist() == TABLE.encode((*first.phones, "_", *second.phones), False)
    assert 12 < num_joined < 38


def test_joining_keeps_everything() -> None:
    first, second = made_up_utterances(2)
    both = join(first, second)
    assert both.phones == (*first.phones, "_", *second.phones)
    assert len(both.codes) == len(first.codes) + len(second.codes)


@pytest.mark.parametrize("mode", [0, 1, 2, 4])
def test_the_nar_prompt_of_each_prefix_mode(shards, mode: int) -> None:
    collator = Collator(num_quantizers=4, prefix_mode=mode, max_prompt_frames=6, for_nar=True)
    settings = tiny_train(use_dynamic_batchsize=False, batch_size=5)
    by_codes = {u.codes.tobytes(): u for u in made_up_utterances(50)}
    lengths = set()
    for batch in data(shards, settings, collator=collator).batches(0):
        [nar] = batch.nar
        shortest = int(batch.codes_lens.min())
        for row in range(len(batch.codes)):
            own_len = int(batch.codes_lens[row])
            own = batch.codes[row, :own_len]
            num_prompt = int(nar.is_prompt[row].sum())
            targets = nar.targets[row]
            assert nar.is_prompt[row, :num_prompt].all()
            lengths.add(num_prompt)
            if mode in (0, 1):
                assert torch.equal(nar.codes[row, :own_len], own)
                assert num_prompt == 0 if mode == 0 else 1 <= num_prompt <= min(6, max(1, shortest // 2))
                assert (targets[:num_prompt] == IGNORED).all()
                assert torch.equal(targets[num_prompt:own_len], own[num_prompt:, nar.stage])
            else:
                assert num_prompt == min(6, shortest // 4)
                assert torch.equal(nar.codes[row, num_prompt : num_prompt + own_len], own)
                segment = nar.codes[row, :num_prompt]
                speaker = by_codes[own.numpy().astype("int16").tobytes()].speaker
                sources = [
                    u
                    for u in by_codes.values()
                    if any(
                        (u.codes[start : start + num_prompt] == segment.numpy()).all()
                        for start in range(len(u.codes) - num_prompt + 1)
                    )
                ]
                assert [source.speaker for source in sources] == [speaker]
                is_own = (sources[0].codes.shape == own.shape) and bool((sources[0].codes == own.numpy()).all())
                assert is_own == (mode == 2)
                own_targets = targets[num_prompt : num_prompt + own_len]
                predicted = own_targets != IGNORED
                assert int((~predicted).sum()) == (num_prompt if mode == 2 else 0)
                assert torch.equal(own_targets[predicted], own[predicted, nar.stage])
            assert (targets[int(nar.codes_lens[row]) :] == IGNORED).all()
        assert nar.num_targets == int((nar.targets != IGNORED).sum())
    assert len(lengths) == (1 if mode == 0 else len(lengths)) and max(lengths) <= 6


def test_mode_4_without_another_utterance_uses_its_own(tmp_path) -> None:
    write_shard(tmp_path, 0, [made_up_utterances(1)[0]], frame_rate_hz=25)
    collator = Collator(num_quantizers=4, prefix_mode=4, max_prompt_frames=6, for_nar=True)
    [batch] = data(list_shards(tmp_path), tiny_train(), collator=collator).batches(0)
    [nar] = batch.nar
    num_prompt = int(nar.is_prompt.sum())
    assert num_prompt >= 1
    assert int((nar.targets[0, num_prompt:] == IGNORED).sum()) == num_prompt
