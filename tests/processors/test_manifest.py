"""Shards from untrusted sources: nothing in them is executed or written to disk."""

import gzip
import io
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from processors.index import write_index
from processors.manifest import Utterance, list_shards, read_shards, write_shard
from tests.conftest import made_up_utterances, tiny_train
from tests.support.tiny_trainer import build_data, epoch_of
from utils.errors import UserError


class Attack:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "The code ran.")


def replace_members(tar: Path, change) -> None:
    """Rewrite a tar with the names and contents that `change` gives for its members."""
    with tarfile.open(tar) as source:
        members = [(member.name, source.extractfile(member).read()) for member in source.getmembers()]
    with tarfile.open(tar, "w") as target:
        for name, content in (change(*member) for member in members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            target.addfile(info, io.BytesIO(content))


def test_shards_are_what_lhotse_writes(tmp_path: Path) -> None:
    """The members of the tar with their headers, and the lines of the cuts, byte for byte."""
    from lhotse import MonoCut, SupervisionSegment
    from lhotse.shar import SharWriter

    codes = np.arange(800, dtype=np.int16).reshape(100, 8)
    utterances = [
        *made_up_utterances(3),
        Utterance('a "b"\\é', 'Hé said "no"\\.', ("h", "ə", "_"), "spé", codes[:1]),
        Utterance("long" * 60, "", ("ə",), "0", codes),
    ]
    write_shard(tmp_path / "ours", 7, utterances, 75)
    (tmp_path / "theirs").mkdir()
    with SharWriter(str(tmp_path / "theirs"), {"codes": "numpy"}, shard_size=None, shard_suffix=".000007") as writer:
        for utterance in utterances:
            duration = len(utterance.codes) / 75
            segment = SupervisionSegment(utterance.id, utterance.id, 0, duration, 0, utterance.text)
            segment.speaker = utterance.speaker
            cut = MonoCut(utterance.id, 0, duration, 0, [segment], custom={"phones": list(utterance.phones)})
            writer.write(cut.attach_tensor("codes", utterance.codes, frame_shift=1 / 75, temporal_dim=0))
    ours, theirs = (tmp_path / folder / "codes.000007.tar" for folder in ("ours", "theirs"))
    assert ours.read_bytes() == theirs.read_bytes()
    # Bytes 4 to 8 are the time of writing.
    ours, theirs = (tmp_path / folder / "cuts.000007.jsonl.gz" for folder in ("ours", "theirs"))
    assert gzip.decompress(ours.read_bytes()) == gzip.decompress(theirs.read_bytes())
    assert ours.read_bytes()[8:] == theirs.read_bytes()[8:]


def test_an_array_of_pickled_objects_is_not_unpickled(tmp_path: Path) -> None:
    write_shard(tmp_path / "train", 0, made_up_utterances(2), 25)
    ran = tmp_path / "ran"
    stream = io.BytesIO()
    np.save(stream, np.array([Attack(ran)], dtype=object), allow_pickle=True)
    [tar] = (tmp_path / "train").glob("*.tar")
    replace_members(tar, lambda name, content: (name, stream.getvalue() if name.endswith(".npy") else content))
    with pytest.raises(UserError, match=r"cuts\.000000\.jsonl\.gz or codes\.000000\.tar: damaged"):
        list(read_shards(list_shards(tmp_path / "train")))
    # Training reads by the index, which a stranger may have made as well.
    write_index(Path(list_shards(tmp_path / "train")[0]))
    with pytest.raises(UserError, match=r"codes\.000000\.tar: damaged"):
        epoch_of(build_data(list_shards(tmp_path / "train"), tiny_train()))
    assert not ran.exists()
    stream.seek(0)
    np.load(stream, allow_pickle=True)
    assert ran.exists()


def test_members_with_paths_are_not_written_anywhere(tmp_path: Path) -> None:
    write_shard(tmp_path / "a" / "train", 0, made_up_utterances(2), 25)
    [tar] = (tmp_path / "a" / "train").glob("*.tar")
    replace_members(tar, lambda name, content: (f"../../{name}", content))
    before = sorted(tmp_path.rglob("*"))
    with suppress(UserError):
        list(read_shards(list_shards(tmp_path / "a" / "train")))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("num_worker", [0, 1])
@pytest.mark.parametrize("suffix", [".tar", ".npz", ".bin"])
def test_a_damaged_shard_is_one_line_in_training_too(tmp_path: Path, suffix: str, num_worker: int) -> None:
    write_shard(tmp_path / "train", 0, made_up_utterances(20), 25)
    [path] = (tmp_path / "train").glob(f"*{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    settings = tiny_train(use_dynamic_batchsize=False, dataloader={"num_worker": num_worker})
    with pytest.raises(UserError, match=r"damaged.*run stage 1 again") as told:
        epoch_of(build_data(list_shards(tmp_path / "train"), settings))
    assert "\n" not in str(told.value) and str(told.value).startswith(str(tmp_path))
