"""The index beside each shard: lengths and speakers, to plan an epoch from, and offsets, to read single utterances.

`index.%06d.npz` holds, for each utterance, the offset and size of its codes in the tar, its numbers of frames and
phones, and its speaker. `phones.%06d.bin` holds the phones of all utterances as ids into the index's own symbols. Both
are made from the shard itself, so that a shard of an older version gets them without being coded again.
"""

import gzip
import io
import json
import os
import tarfile
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError, first_line
from utils.files import atomic_write

_PHONE = np.dtype("<u2")
# As many as a pool of 64 shards has. Files that are removed keep their disk space until they are closed.
_OPEN_FILES = 128


@dataclass(frozen=True)
class ShardIndex:
    """Arrays of N utterances: `codes_offset` and `codes_size` in bytes, `speaker` indexes `speaker_names`."""

    codes_offset: np.ndarray
    codes_size: np.ndarray
    num_frames: np.ndarray
    num_phones: np.ndarray
    speaker: np.ndarray
    speaker_names: np.ndarray
    symbols: np.ndarray


def index_location(cuts: str) -> str:
    """The path or URL of a shard's index, from that of its `cuts` file."""
    return _beside(cuts, "index", "npz")


def phones_location(cuts: str) -> str:
    return _beside(cuts, "phones", "bin")


def codes_location(cuts: str) -> str:
    return _beside(cuts, "codes", "tar")


def _beside(cuts: str, kind: str, suffix: str) -> str:
    folder, name = cuts.rsplit("/", 1)
    return f"{folder}/{kind}.{name.split('.')[1]}.{suffix}"


def write_index(cuts: Path) -> None:
    """Index a shard. Raises UserError where its cuts and codes cannot be read or do not belong together."""
    codes = Path(codes_location(str(cuts)))
    try:
        with gzip.open(cuts, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        with tarfile.open(codes) as tar:
            arrays = [member for member in tar if member.name.endswith(".npy")]
        if [f"{row['id']}.npy" for row in rows] != [member.name for member in arrays]:
            raise ValueError("cuts and codes are of different utterances")
        # Only the header of each array is read: a large corpus is indexed in minutes.
        with codes.open("rb") as file:
            num_frames = [_read_shape(file, member.offset_data)[0] for member in arrays]
        phones = [row["custom"]["phones"] for row in rows]
        speakers = [row["supervisions"][0]["speaker"] for row in rows]
    except Exception as error:  # Of many types: gzip's, tar's, JSON's, numpy's.
        raise UserError(_damaged(f"{cuts} or {codes.name}", error)) from error
    symbols = sorted({phone for of_one in phones for phone in of_one})
    names = sorted(set(speakers))
    symbol_ids = {symbol: number for number, symbol in enumerate(symbols)}
    speaker_ids = {name: number for number, name in enumerate(names)}
    with atomic_write(Path(phones_location(str(cuts)))) as path:
        path.write_bytes(np.array([symbol_ids[phone] for of_one in phones for phone in of_one], _PHONE).tobytes())
    with atomic_write(Path(index_location(str(cuts)))) as path:
        np.savez(
            path,
            codes_offset=np.array([member.offset_data for member in arrays], np.int64),
            codes_size=np.array([member.size for member in arrays], np.int32),
            num_frames=np.array(num_frames, np.int32),
            num_phones=np.array([len(of_one) for of_one in phones], np.int32),
            speaker=np.array([speaker_ids[name] for name in speakers], np.int32),
            speaker_names=np.array(names, np.str_),
            symbols=np.array(symbols, np.str_),
        )


def _read_shape(file: Any, offset: int) -> tuple[int, ...]:
    file.seek(offset)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array of another format version")
    shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return shape


def read_index(path: Path) -> ShardIndex:
    """Raises UserError where the index is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            index = ShardIndex(**{field.name: arrays[field.name] for field in fields(ShardIndex)})
    except Exception as error:  # Of many types: zip's, numpy's, the system's.
        reason = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({first_line(error)})"
        raise UserError(f"{path}: {reason}; run stage 1 again, which makes only the index") from error
    return index


def read_phones(path: Path, first: int, num: int) -> np.ndarray:
    """`num` symbol ids of a shard from the `first` on. Raises UserError where the file is shorter."""
    data = _read_at(path, first * _PHONE.itemsize, num * _PHONE.itemsize)
    return np.frombuffer(data, _PHONE)


def read_codes(path: Path, offset: int, size: int, num_frames: int) -> np.ndarray:
    """The codes (T, Q) at an offset of a tar. Raises UserError where there is no array of `num_frames` frames."""
    try:
        codes = np.load(io.BytesIO(_read_at(path, offset, size)), allow_pickle=False)
        if codes.ndim != 2 or len(codes) != num_frames or codes.dtype.kind not in "iu":
            raise ValueError("its codes do not fit its index")
    except ValueError as error:
        raise UserError(_damaged(str(path), error)) from error
    return codes


def _read_at(path: Path, offset: int, size: int) -> bytes:
    try:
        data = os.pread(_opened(path).fileno(), size, offset)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(_damaged(str(path), error)) from error
    if len(data) != size:
        raise UserError(_damaged(str(path), "it ends too early"))
    return data


# An evicted file is closed when its last user drops it.
@lru_cache(maxsize=_OPEN_FILES)
def _opened(path: Path) -> io.FileIO:
    file = io.FileIO(path)
    if hasattr(os, "posix_fadvise"):
        # No read-ahead by the system: neighbours in the file belong to other batches.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    return file


def forget_open_files() -> None:
    """Open each file again when it is read next."""
    _opened.cache_clear()


def _damaged(what: str, error: Exception | str) -> str:
    reason = error if isinstance(error, str) else first_line(error)
    return f"{what}: damaged ({reason}); delete the shard and run stage 1 again"
