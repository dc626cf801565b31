"""Batches from shards: what is in them, and that nothing but seed, epoch and position decides it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.contract import Batch
from models.valle.collate import IGNORED, Collator, PrefixMode
from models.valle.valle import VALLE
from processors.index import codes_location, phones_location
from processors.manifest import list_shards, read_shards, write_shard
from tests.conftest import made_up_utterances, tiny_model, tiny_train
from tests.support.tiny_trainer import COLLATOR, TABLE, TOKENIZER, build_data, epoch_of
from training.corpus import IndexedCorpus
from training.data import TrainData
from training.pools import PoolReader
from training.sequence import Position
from utils.errors import UserError
from utils.remote import MachineCache

NUM = 50


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data") / "vctk" / "train"
    utterances = made_up_utterances(NUM)
    for index in range(5):
        write_shard(folder, index, utterances[10 * index : 10 * index + 10], frame_rate_hz=25)
    return list_shards(folder)


def same(some: list[Batch], others: list[Batch]) -> bool:
    return len(some) == len(others) and all(
        torch.equal(a.codes, b.codes)
        and torch.equal(a.text, b.text)
        and a.nar[0].stage == b.nar[0].stage
        and torch.equal(a.nar[0].targets, b.nar[0].targets)
        for a, b in zip(some, others, strict=True)
    )


def test_shards_give_back_what_was_written(shards) -> None:
    for written, read in zip(made_up_utterances(NUM), read_shards(shards), strict=True):
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
    batches = epoch_of(build_data(shards, settings))
    rows = [
        (tuple(batch.text[row, : batch.text_lens[row]].tolist()), batch.codes[row, : batch.codes_lens[row]].numpy())
        for batch in batches
        for row in range(batch.num_utterances)
    ]
    wanted = [(tuple(TABLE.encode(u.phones, False)), u.codes) for u in made_up_utterances(NUM)]
    order = {codes.astype(np.int16).tobytes(): ids for ids, codes in rows}
    assert len(rows) == NUM and order == {codes.tobytes(): ids for ids, codes in wanted}
    if dynamic:
        assert max(batch.num_utterances for batch in batches) <= 6
        assert all(batch.longest * batch.num_utterances <= 150 for batch in batches)
    else:
        assert sorted(batch.num_utterances for batch in batches) == [1] + [7] * 7


def test_an_utterance_that_is_longer_than_a_batch_may_be_is_a_batch_of_its_own(shards) -> None:
    batches = epoch_of(build_data(shards, tiny_train(max_tokens=12)))
    assert [batch.num_utterances for batch in batches] == [1] * NUM
    assert min(batch.longest for batch in batches) > 12


@pytest.mark.parametrize("mode", [PrefixMode.SEGMENT, PrefixMode.OTHER_SEGMENT])
def test_segments_count_in_the_bound_of_a_batch(shards, mode: PrefixMode) -> None:
    collator = Collator(num_quantizers=4, prefix_mode=mode, max_prompt_frames=75, for_nar=True)
    for epoch in range(5):
        batches = epoch_of(build_data(shards, tiny_train(max_tokens=150, join_probability=0.5), collator), epoch)
        assert all(nar.longest * batch.num_utterances <= 150 for batch in batches for nar in batch.nar)
        assert any(nar.longest * batch.num_utterances > 130 for batch in batches for nar in batch.nar)


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_batches_are_bounded_by_the_positions_of_the_model_that_trains(shards, group_size: int) -> None:
    """Groups where the AR trains alone, and frames where the NAR does, whatever the AR's groups are."""
    settings = tiny_train(max_tokens=150, max_sentences=50, join_probability=0.5)

    def sizes(train_stage: int) -> list[int]:
        collator = VALLE(tiny_model(group_size=group_size), train_stage).collate(25.0)
        batches = epoch_of(build_data(shards, settings, collator))
        for batch in batches:
            groups = batch.text_lens + batch.codes_lens // group_size
            assert batch.longest == groups.max()
            longest = max([batch.longest, *(nar.longest for nar in batch.nar)])
            assert longest * batch.num_utterances <= 150 or batch.num_utterances == 1
        return [batch.num_utterances for batch in batches]

    plain = [batch.num_utterances for batch in epoch_of(build_data(shards, settings))]
    assert sizes(0) == sizes(2) == plain
    assert sizes(1) == plain if group_size == 1 else len(sizes(1)) < len(plain)


def test_workers_change_nothing_and_epochs_differ(shards) -> None:
    orders = [
        epoch_of(build_data(shards, tiny_train(dataloader={"num_worker": num}, join_probability=0.5)), epoch=1)
        for num in (0, 1, 2)
    ]
    assert same(orders[0], orders[1]) and same(orders[0], orders[2])
    plain = build_data(shards, tiny_train())
    assert not same(epoch_of(plain, 0), epoch_of(plain, 1))
    assert not same(epoch_of(plain, 0), epoch_of(build_data(shards, tiny_train(random_seed=9)), 0))


@pytest.mark.parametrize("shards_per_pool", [1, 2, None])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_steps_go_on_where_they_were_left_on_any_number_of_ranks(shards, shards_per_pool, world_size: int) -> None:
    """Each step has the next batches of the sequence, across the ends of epochs."""
    settings = tiny_train(
        join_probability=0.3, shards_per_pool=shards_per_pool, max_epoch=2, gradient_accumulation_step=2
    )
    alone = build_data(shards, settings.model_copy(update={"gradient_accumulation_step": 1}))
    whole = [batch for [batch] in alone.steps(Position(), alone.num_steps(Position()))]
    assert len(whole) == alone.sequence.num_batches(0) + alone.sequence.num_batches(1)
    for done in (0, 3, alone.sequence.num_batches(0), len(whole) - 1):
        start = alone.sequence.after(Position(), done)
        ranks = [build_data(shards, settings, rank=rank, world_size=world_size) for rank in range(world_size)]
        [num_steps] = {rank.num_steps(start, steps_done=1) for rank in ranks}
        assert num_steps == (len(whole) - done) // (2 * world_size)
        steps = zip(*(rank.steps(start, num_steps) for rank in ranks), strict=True)
        taken = [group[place] for step in steps for place in range(2) for group in step]
        assert same(taken, whole[done : done + num_steps * 2 * world_size])


def test_a_resumed_training_reads_no_shard_before_its_position(shards, tmp_path: Path) -> None:
    """Shards of the first pools are missing, and batches after them are the same."""
    folder = Path(shutil.copytree(Path(shards[0]).parent, tmp_path / "vctk" / "train"))
    data = build_data(list_shards(folder), tiny_train(shards_per_pool=1))
    whole, plan = epoch_of(data), data.sequence.plan(0)
    done = int((plan.pool < 2).sum())
    for shard in [shard for shards in plan.shards_of[:2] for shard in shards]:
        # Not the same file: those that are read are kept open.
        path = Path(codes_location(data.train.shards[shard]))
        path.unlink()
    # The copy of another folder has other paths, so that no open file helps.
    moved = build_data(list_shards(folder.rename(tmp_path / "vctk" / "other")), tiny_train(shards_per_pool=1))
    assert same(epoch_of(moved, start=done), whole[done:])
    with pytest.raises(UserError, match=r"codes\.\d+\.tar: missing; run stage 1 again"):
        epoch_of(moved)


def test_the_fingerprint_tells_data_apart_but_not_where_they_lie(shards, tmp_path: Path) -> None:
    moved = list_shards(Path(shutil.copytree(Path(shards[0]).parent, tmp_path / "vctk" / "train")))
    settings = tiny_train(dataset_weights={"vctk": 1.0})
    source = build_data(shards, settings)
    assert build_data(moved, settings).fingerprint() == source.fingerprint()
    segments = Collator(num_quantizers=4, prefix_mode=PrefixMode.SEGMENT, max_prompt_frames=75, for_nar=True)
    others = [
        build_data(shards[1:], settings),
        build_data(shards, settings, segments),
        build_data(shards, tiny_train()),
    ]
    for change in ({"random_seed": 9}, {"shards_per_pool": 2}, {"max_tokens": 300}, {"join_probability": 0.1}):
        others += [build_data(shards, settings.model_copy(update=change))]
    assert len({other.fingerprint() for other in [source, *others]}) == 8


def remote_shards(shards: list[str], url: str) -> list[str]:
    root = Path(shards[0]).parents[2]
    return [f"{url}/{Path(shard).relative_to(root)}" for shard in shards]


def test_shards_are_read_through_a_url(shards, serve: Callable[[Path], str], tmp_path: Path) -> None:
    """And a server that fails for a moment, or breaks off in the middle of a shard, costs nothing."""
    streamed = remote_shards(shards, serve(Path(shards[0]).parents[2]))
    settings = tiny_train(shards_per_pool=2, join_probability=0.0, dataloader={"num_worker": 1}, max_epoch=2)
    whole = epoch_of(build_data(shards, settings), 1)
    cache = MachineCache(tmp_path / "cache")
    corpus = IndexedCorpus.load(streamed, cache)
    data = TrainData(corpus, corpus, TOKENIZER, COLLATOR, settings, pool_reader=PoolReader(cache))
    assert same(epoch_of(data, 1), whole) and same(epoch_of(data, 1, start=3), whole[3:])
    assert same(data.valid_batches, build_data(shards, settings).valid_batches)
    assert {u.id for u in data.valid_utterances(3)} <= {u.id for u in made_up_utterances(NUM)}


def test_a_missing_index_is_one_line(shards, serve: Callable[[Path], str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(Path(shards[0]).parent, tmp_path / "corpus" / "vctk" / "train"))
    [index] = folder.glob("index.000003.npz")
    index.unlink()
    with pytest.raises(UserError, match=rf"^{index}: missing; run stage 1 again"):
        IndexedCorpus.load(list_shards(folder))
    streamed = remote_shards(list_shards(folder), serve(tmp_path / "corpus"))
    # Without another try, which would take half a minute.
    with pytest.raises(UserError, match=r"index\.000003\.npz: cannot be read \(404.*run stage 1 again on the folder"):
        IndexedCorpus.load(streamed, MachineCache(tmp_path / "cache"))


def test_a_machine_keeps_the_shards_of_three_pools_at_most(
    shards, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    streamed = remote_shards(shards, serve(Path(shards[0]).parents[2]))
    readers = [PoolReader(MachineCache(tmp_path / "cache"), rank, 2) for rank in range(2)]
    kept = []
    for index in range(5):
        following = streamed[index + 1 : index + 2]
        for reader in readers:
            reader.enter([streamed[index]], following)
        for reader in readers:
            # What is under way ends before the next pool is due.
            reader.close(wait=True)
        kept.append(sorted(path.name for path in (tmp_path / "cache").rglob("*.tar")))
    names = [codes_location(shard).rsplit("/", 1)[1] for shard in streamed]
    assert kept == [names[max(index - 1, 0) : index + 2] for index in range(5)]


def test_pools_in_a_folder_are_read_ahead_each_file_by_one_rank(shards, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(PoolReader, "_read", lambda self, location: read.append(location))
    readers = [PoolReader(MachineCache(), rank, 3) for rank in range(3)]
    for pool in range(2):
        for reader in readers:
            reader.enter(shards[2 * pool : 2 * pool + 2], shards[2 * pool + 2 : 2 * pool + 4])
    for reader in readers:
        reader.close(wait=True)
    assert sorted(read) == sorted(
        [location(shard) for shard in shards for location in (codes_location, phones_location)]
    )


def test_validation_is_fixed_and_the_same_on_any_number_of_ranks(shards) -> None:
    settings = tiny_train(join_probability=1.0, max_sentences=4)
    first, second = build_data(shards, settings).valid_batches, build_data(shards, settings).valid_batches
    assert same(first, second)
    assert [nar.stage for nar in first[0].nar] == [1, 2, 3]
    assert sum(batch.num_utterances for batch in first) == NUM
    for world_size in (2, 3):
        ranks = [build_data(shards, settings, rank=r, world_size=world_size).valid_batches for r in range(world_size)]
        together = [ranks[index % world_size][index // world_size] for index in range(len(first))]
        assert same(together, first)
    assert len(build_data(shards, tiny_train(valid_max_batches=1)).valid_batches) == 1


def test_joined_examples_are_two_utterances_of_a_speaker(shards) -> None:
    by_codes = {u.codes.tobytes(): u for u in made_up_utterances(NUM)}
    settings = tiny_train(join_probability=0.5, use_dynamic_batchsize=False, batch_size=1)
    num_joined = 0
    for batch in epoch_of(build_data(shards, settings)):
        codes = batch.codes[0].numpy().astype("int16")
        splits = [(codes[:at].tobytes(), codes[at:].tobytes()) for at in range(1, len(codes))]
        found = [(by_codes[a], by_codes[b]) for a, b in splits if a in by_codes and b in by_codes]
        for first, second in found:
            num_joined += 1
            assert first.speaker == second.speaker and first.id != second.id
            assert batch.text[0].tolist() == TABLE.encode((*first.phones, "_", *second.phones), False)
    assert 12 < num_joined < 38


@pytest.mark.parametrize("mode", [PrefixMode.NONE, PrefixMode.FIRST_FRAMES])
def test_without_a_segment_the_first_frames_may_be_the_nar_s_prompt(shards, mode: PrefixMode) -> None:
    lengths = set()
    for batch in nar_batches(shards, mode):
        [nar] = batch.nar
        shortest = int(batch.codes_lens.min())
        for row in range(len(batch.codes)):
            own_len = int(batch.codes_lens[row])
            own = batch.codes[row, :own_len]
            num_prompt = prompt_length(nar, row)
            lengths.add(num_prompt)
            assert torch.equal(nar.codes[row, :own_len], own)
            assert num_prompt == 0 if mode == PrefixMode.NONE else 1 <= num_prompt <= min(6, max(1, shortest // 2))
            targets = nar.targets[row]
            assert (targets[:num_prompt] == IGNORED).all() and (targets[own_len:] == IGNORED).all()
            assert torch.equal(targets[num_prompt:own_len], own[num_prompt:, nar.stage])
        assert nar.num_targets == int((nar.targets != IGNORED).sum())
    assert (len(lengths) == 1) == (mode == PrefixMode.NONE)


@pytest.mark.parametrize("mode", [PrefixMode.SEGMENT, PrefixMode.OTHER_SEGMENT])
def test_a_segment_of_the_utterance_or_of_another_of_the_speaker_is_the_nar_s_prompt(shards, mode: PrefixMode) -> None:
    by_codes = {u.codes.tobytes(): u for u in made_up_utterances(NUM)}
    for batch in nar_batches(shards, mode):
        [nar] = batch.nar
        for row in range(len(batch.codes)):
            own_len = int(batch.codes_lens[row])
            own = batch.codes[row, :own_len]
            num_prompt = prompt_length(nar, row)
            assert num_prompt == min(6, int(batch.codes_lens.min()) // 4)
            assert torch.equal(nar.codes[row, num_prompt : num_prompt + own_len], own)
            segment = nar.codes[row, :num_prompt].numpy()
            sources = []
            for candidate in by_codes.values():
                windows = np.lib.stride_tricks.sliding_window_view(candidate.codes, (num_prompt, 4))[:, 0]
                sources += [candidate] if (windows == segment).all((1, 2)).any() else []
            [source] = sources
            utterance = by_codes[own.numpy().astype("int16").tobytes()]
            assert source.speaker == utterance.speaker and (source is utterance) == (mode == PrefixMode.SEGMENT)
            own_targets = nar.targets[row, num_prompt : num_prompt + own_len]
            predicted = own_targets != IGNORED
            # The frames that the segment was copied from are not predicted at their own place either.
            assert int((~predicted).sum()) == (num_prompt if mode == PrefixMode.SEGMENT else 0)
            assert torch.equal(own_targets[predicted], own[predicted, nar.stage])
            assert (nar.targets[row, num_prompt + own_len :] == IGNORED).all()
        assert nar.num_targets == int((nar.targets != IGNORED).sum())


def nar_batches(shards: list[str], mode: PrefixMode) -> list[Batch]:
    collator = Collator(num_quantizers=4, prefix_mode=mode, max_prompt_frames=6, for_nar=True)
    return epoch_of(build_data(shards, tiny_train(use_dynamic_batchsize=False, batch_size=5), collator))


def prompt_length(nar, row: int) -> int:
    num_prompt = int(nar.is_prompt[row].sum())
    assert nar.is_prompt[row, :num_prompt].all() and num_prompt <= 6
    return num_prompt


def test_mode_4_without_another_utterance_uses_its_own(tmp_path: Path) -> None:
    write_shard(tmp_path / "train", 0, [made_up_utterances(1)[0]], frame_rate_hz=25)
    [batch] = nar_batches(list_shards(tmp_path / "train"), PrefixMode.OTHER_SEGMENT)
    [nar] = batch.nar
    num_prompt = int(nar.is_prompt.sum())
    assert num_prompt >= 1
    assert int((nar.targets[0, num_prompt:] == IGNORED).sum()) == num_prompt
