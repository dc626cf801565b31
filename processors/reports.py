"""The shards of stage 1 and their reports: which shards are finished, and what became of their utterances."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processors.index import codes_location, index_location, phones_location, read_index, write_index
from processors.manifest import SourceUtterance, Split
from utils.errors import UserError


@dataclass(frozen=True)
class Shard:
    """A part of one split: its rows, and the paths of its files. The report is written last."""

    split: Split
    index: int
    rows: Sequence[SourceUtterance]
    folder: Path

    @property
    def report_path(self) -> Path:
        return self.folder / "reports" / f"{self.split}.{self.index:06d}.json"

    @property
    def cuts_path(self) -> Path:
        return self.folder / self.split / f"cuts.{self.index:06d}.jsonl.gz"

    @property
    def index_path(self) -> Path:
        return Path(index_location(str(self.cuts_path)))


def is_done(shard: Shard, fingerprint: str) -> bool:
    """Whether the shard is finished and has an index. A shard of an older version gets its index here."""
    try:
        report = read_report(shard)
        if report["fingerprint"] != fingerprint:
            return False
        if report["utterances"]:
            if not (shard.cuts_path.is_file() and Path(codes_location(str(shard.cuts_path))).is_file()):
                return False
            try:
                read_index(shard.index_path)
                is_indexed = Path(phones_location(str(shard.cuts_path))).is_file()
            except UserError:
                is_indexed = False
            if not is_indexed:
                write_index(shard.cuts_path)
        return True
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return False


def read_report(shard: Shard) -> dict[str, Any]:
    return json.loads(shard.report_path.read_text(encoding="utf-8"))


def failure_category(failure: dict[str, str]) -> str:
    """A failure's reason without what is particular to the utterance."""
    reason = failure["reason"]
    categories = {
        "no transcript": "no transcript",
        "no audio": "no audio named",
        "where the heading has": "broken row",
        "over several lines": "broken row",
        "no JSON object": "broken row",
        "segments gives": "broken row",
        "wav.scp has": "no audio named",
        "nothing that can be spoken": "nothing that can be spoken",
        "cannot read:": "letters of another script",
        "shorter than min_duration": "too short",
        "longer than max_duration": "too long",
        "silent throughout": "silent",
        " is not in ": "unknown phone",
    }
    for words, category in categories.items():
        if words in reason:
            return category
    return "unreadable audio"
