"""Rows that travel between the stages, and how those of stage 1 lie on disk."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from utils.errors import UserError, first_line

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class SourceUtterance:
    """One utterance as a corpus has it, before stage 1.

    `text` is None where the corpus has no transcript for the audio. `duration_seconds` None means to the end.
    """

    id: str
    audio_path: str
    text: str | None
    speaker: str
    split: Split
    start_seconds: float = 0.0
    duration_seconds: float | None = None


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


def list_shards(folder: Path) -> list[Path]:
    """The `cuts` files of a split's folder, in order."""
    return sorted(folder.glob("cuts.*.jsonl.gz"))


def read_shards(cuts_paths: Sequence[Path]) -> Iterator[Utterance]:
    """The utterances of these shards, one after another. Raises UserError for a shard that is damaged."""
    for cuts_path in cuts_paths:
        codes_path = cuts_path.with_name(cuts_path.name.replace("cuts.", "codes.").replace(".jsonl.gz", ".tar"))
        try:
            yield from _read_shard(cuts_path, codes_path)
        except Exception as error:  # Of many types: gzip's, tar's, JSON's, lhotse's.
            reason = first_line(error)
            raise UserError(f"{cuts_path} or {codes_path.name}: damaged ({reason}); run stage 1 again") from error


def _read_shard(cuts_path: Path, codes_path: Path) -> Iterator[Utterance]:
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
