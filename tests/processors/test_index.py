"""The index beside a shard: it gives back what was written, is made for old shards, and damage is one line."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from processors.index import (
    codes_location,
    index_location,
    phones_location,
    read_codes,
    read_index,
    read_phones,
    write_index,
)
from processors.manifest import Utterance, list_shards, write_shard
from tests.conftest import made_up_utterances
from utils.errors import UserError


@pytest.fixture
def cuts(tmp_path: Path) -> str:
    write_shard(tmp_path / "train", 3, made_up_utterances(12), frame_rate_hz=25)
    [cuts] = list_shards(tmp_path / "train")
    return cuts


def read_all(cuts: str) -> list[tuple[tuple[str, ...], str, np.ndarray]]:
    """Phones, speaker and codes of each utterance, at random places."""
    index = read_index(Path(index_location(cuts)))
    first, found = np.cumsum(index.num_phones) - index.num_phones, {}
    for row in np.random.default_rng(0).permutation(len(index.num_frames)).tolist():
        ids = read_phones(Path(phones_location(cuts)), int(first[row]), int(index.num_phones[row]))
        codes = read_codes(
            Path(codes_location(cuts)),
            int(index.codes_offset[row]),
            int(index.codes_size[row]),
            int(index.num_frames[row]),
        )
        speaker = index.speaker_names[index.speaker[row]]
        found[row] = tuple(index.symbols[ids].tolist()), str(speaker), codes
    return [found[row] for row in sorted(found)]


def equal(found: list[tuple[tuple[str, ...], str, np.ndarray]], utterances: list[Utterance]) -> bool:
    return all(
        (phones, speaker) == (utterance.phones, utterance.speaker)
        and codes.dtype == utterance.codes.dtype
        and np.array_equal(codes, utterance.codes)
        for (phones, speaker, codes), utterance in zip(found, utterances, strict=True)
    )


def test_each_utterance_is_read_by_itself(cuts: str) -> None:
    assert equal(read_all(cuts), made_up_utterances(12))


def test_any_id_symbol_and_layout_of_codes_comes_back(tmp_path: Path) -> None:
    codes = np.arange(24, dtype=np.int16).reshape(4, 6)
    phones = ("ɹ̩", "t͡ʃ", "_", ",", "ˈaɪ")
    written = [
        Utterance("a.b.npy", "x", phones, "Zoë, the 2nd", codes.T),
        Utterance("ä long name " * 12, "y", ("a",), "s", codes),
    ]
    write_shard(tmp_path / "train", 0, written, frame_rate_hz=25)
    assert equal(read_all(list_shards(tmp_path / "train")[0]), written)


def test_a_shard_without_an_index_gets_the_same_one(cuts: str) -> None:
    paths = [Path(index_location(cuts)), Path(phones_location(cuts))]
    before = read_all(cuts), paths[1].read_bytes()
    for path in paths:
        path.unlink()
    with pytest.raises(UserError, match=r"index\.000003\.npz: missing; run stage 1 again"):
        read_index(paths[0])
    write_index(Path(cuts))
    assert equal(read_all(cuts), made_up_utterances(12)) and paths[1].read_bytes() == before[1]


@pytest.mark.parametrize("location", [index_location, phones_location, codes_location])
def test_a_file_that_is_cut_off_is_one_line(cuts: str, location) -> None:
    path = Path(location(cuts))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"^{path}: damaged \(.*run stage 1 again") as caught:
        read_all(cuts)
    assert "\n" not in str(caught.value)


def test_codes_that_are_not_those_of_the_index_are_refused(cuts: str) -> None:
    """A tar of other utterances under the same name, in which other bytes lie at the offsets."""
    codes = Path(codes_location(cuts))
    with tarfile.open(codes) as source:
        members = [(member.name, source.extractfile(member).read()) for member in source.getmembers()]
    with tarfile.open(codes, "w") as target:
        for name, content in reversed(members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            target.addfile(info, io.BytesIO(content))
    with pytest.raises(UserError, match="damaged"):
        read_all(cuts)
    with pytest.raises(UserError, match="cuts and codes are of different utterances"):
        write_index(Path(cuts))
