"""Rows that travel between the stages, and how those of stage 1 lie on disk."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from utils.errors import UserError, first_line
from utils.remote import is_url

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
# Before a shard behind a URL is asked for again: a network has its moments.
_WAITS_SECONDS = (1, 5, 25)


@dataclass(frozen=True)
class SourceUtterance:
    """One utterance as a corpus has it, before stage 1.

    `text` is None where the corpus has no transcript for the audio. `duration_seconds` None means to the end.
    `problem` says why stage 1 cannot use the row, where its reader knows.
    """

    id: str
    audio_path: str
    text: str | None
    speaker: str
    split: Split
    start_seconds: float = 0.0
    duration_seconds: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Utterance:
    """One utterance after stage 1; `codes` is (T, Q) int16."""

    id: str
    text: str
    phones: tuple[str, ...]
    speaker: str
    codes: np.ndarray


def write_shard(folder: Path, index: int, utterances: Sequence[Utterance], frame_rate_hz: float) -> None:
    """Write one shard of Lhotse Shar, `cuts.%06d.jsonl.gz` and `codes.%06d.tar`.

    Both are written aside and renamed: what is under its final name is whole.
    """
    from lhotse.shar import SharWriter

    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".shard-", dir=folder))
    try:
        writer = SharWriter(str(aside), fields={"codes": "numpy"}, shard_size=None, shard_suffix=f".{index:06d}")
        with writer:
            for utterance in utterances:
                writer.write(_to_cut(utterance, frame_rate_hz))
        # The cuts come last: a shard counts as there when its cuts are.
        for path in sorted(aside.iterdir()):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def shard_path(folder: str, split: Split, index: int) -> str:
    """The `cuts` file of a shard of the corpus in `folder`, a path or a URL."""
    return f"{folder}/{split}/cuts.{index:06d}.jsonl.gz"


def list_shards(folder: Path) -> list[str]:
    """The `cuts` files of a split's folder, in order."""
    return sorted(map(str, folder.glob("cuts.*.jsonl.gz")))


def corpus_of(cuts_path: str) -> str:
    """The corpus that a shard `<processed_dir>/<corpus>/<split>/cuts...` is of."""
    return cuts_path.rsplit("/", 3)[1]


def read_shards(cuts_paths: Sequence[str]) -> Iterator[Utterance]:
    """The utterances of these shards, paths or URLs, one after another. Raises UserError for one that is damaged."""
    for cuts_path in cuts_paths:
        folder, name = cuts_path.rsplit("/", 1)
        codes_name = name.replace("cuts.", "codes.").replace(".jsonl.gz", ".tar")
        num_read, waits = 0, iter(_WAITS_SECONDS if is_url(cuts_path) else ())
        while True:
            try:
                for utterance in islice(_read_shard(cuts_path, f"{folder}/{codes_name}"), num_read, None):
                    yield utterance
                    num_read += 1
                break
            except Exception as error:  # Of many types: gzip's, tar's, JSON's, lhotse's, a store's.
                seconds = next(waits, None)
                if seconds is None:
                    trouble = "cannot be read" if is_url(cuts_path) else "damaged"
                    reason = first_line(error)
                    raise UserError(f"{cuts_path} or {codes_name}: {trouble} ({reason}); run stage 1 again") from error
                time.sleep(seconds)


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


def _to_cut(utterance: Utterance, frame_rate_hz: float) -> Any:
    from lhotse import MonoCut, SupervisionSegment

    duration = len(utterance.codes) / frame_rate_hz
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0,
        duration=duration,
        text=utterance.text,
        speaker=utterance.speaker,
    )
    cut = MonoCut(
        id=utterance.id,
        start=0,
        duration=duration,
        channel=0,
        supervisions=[supervision],
        custom={"phones": list(utterance.phones)},
    )
    return cut.attach_tensor("codes", utterance.codes, frame_shift=1 / frame_rate_hz, temporal_dim=0)
