"""Utterances before and after stage 1, and the shards that hold them on disk."""

import gzip
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from processors.index import codes_location, write_index
from utils.errors import UserError, first_line

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class SourceUtterance:
    """One utterance as a corpus has it, before stage 1.

    `text` is None where the corpus has no transcript for the audio. `duration_seconds` None means to the end.
    `problem` is the reason why stage 1 cannot use the row, where the reader of the corpus knows one. `language` is ""
    where all utterances have the language of the settings. `place` is the file and line of the text, for error lines.
    """

    id: str
    audio_path: str
    text: str | None
    speaker: str
    split: Split
    start_seconds: float = 0.0
    duration_seconds: float | None = None
    problem: str | None = None
    language: str = ""
    place: str = ""


@dataclass(frozen=True)
class Utterance:
    """One utterance after stage 1; `codes` is (T, Q) int16."""

    id: str
    text: str
    phones: tuple[str, ...]
    speaker: str
    codes: np.ndarray


def write_shard(folder: Path, index: int, utterances: Sequence[Utterance], frame_rate_hz: float) -> None:
    """Write one shard of Lhotse Shar, `cuts.%06d.jsonl.gz` and `codes.%06d.tar`, and its index.

    All are written to a temporary folder and renamed: a file under its final name is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".shard-", dir=folder))
    try:
        cuts = Path(shard_path(str(temporary.parent), temporary.name, index))
        # As lhotse's SharWriter writes them, in half the time, and without the second that importing it takes.
        with (
            gzip.open(cuts, "wt", encoding="utf-8") as lines,
            tarfile.open(codes_location(str(cuts)), "w|") as tar,
        ):
            for utterance in utterances:
                codes = _describe_codes(utterance, frame_rate_hz)
                lines.write(json.dumps(_to_cut(utterance, codes, frame_rate_hz), ensure_ascii=False) + "\n")
                array = io.BytesIO()
                np.save(array, utterance.codes, allow_pickle=False)
                for suffix, content in (("npy", array.getvalue()), ("json", json.dumps(codes).encode() + b"\n")):
                    member = tarfile.TarInfo(f"{utterance.id}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        write_index(cuts)
        # The cuts come last: without them a shard is incomplete.
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == cuts.name):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def shard_path(folder: str, split: str, index: int) -> str:
    """The `cuts` file of a shard of the corpus in `folder`, a path or a URL."""
    return f"{folder}/{split}/cuts.{index:06d}.jsonl.gz"


def list_shards(folder: Path) -> list[str]:
    """The `cuts` files of a split's folder, in order."""
    return sorted(map(str, folder.glob("cuts.*.jsonl.gz")))


def corpus_of(cuts_path: str) -> str:
    """The corpus that a shard `<processed_dir>/<corpus>/<split>/cuts...` is of."""
    return cuts_path.rsplit("/", 3)[1]


def read_shards(cuts_paths: Sequence[str]) -> Iterator[Utterance]:
    """The utterances of these shards, one after another. Raises UserError for a shard that is damaged."""
    for cuts_path in cuts_paths:
        codes_path = codes_location(cuts_path)
        try:
            yield from _read_shard(cuts_path, codes_path)
        except Exception as error:  # Of many types: gzip's, tar's, JSON's, lhotse's.
            names = f"{cuts_path} or {codes_path.rsplit('/', 1)[1]}"
            raise UserError(
                f"{names}: damaged ({first_line(error)}); delete the shard and run stage 1 again"
            ) from error


def _read_shard(cuts_path: str, codes_path: str) -> Iterator[Utterance]:
    from lhotse import CutSet

    for cut in CutSet.from_shar(fields={"cuts": [cuts_path], "codes": [codes_path]}):
        [supervision] = cut.supervisions
        yield Utterance(
            id=cut.id,
            text=supervision.text,
            phones=tuple(cut.custom["phones"]),
            speaker=supervision.speaker,
            codes=cut.load_codes(),
        )


def _describe_codes(utterance: Utterance, frame_rate_hz: float) -> dict[str, Any]:
    """Lhotse's TemporalArray whose array lies in the shard's tar."""
    array = {"storage_type": "shar", "storage_path": "", "storage_key": "", "shape": list(utterance.codes.shape)}
    return {"array": array, "temporal_dim": 0, "frame_shift": 1 / frame_rate_hz, "start": 0}


def _to_cut(utterance: Utterance, codes: dict[str, Any], frame_rate_hz: float) -> dict[str, Any]:
    """Lhotse's MonoCut of an utterance, with one supervision."""
    duration = len(utterance.codes) / frame_rate_hz
    supervision = {
        "id": utterance.id,
        "recording_id": utterance.id,
        "start": 0,
        "duration": duration,
        "channel": 0,
        "text": utterance.text,
        "speaker": utterance.speaker,
    }
    return {
        "id": utterance.id,
        "start": 0,
        "duration": duration,
        "channel": 0,
        "supervisions": [supervision],
        "custom": {"phones": list(utterance.phones), "codes": codes},
        "type": "MonoCut",
    }
