"""Published results, and the test lists that they are of."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from evaluation.measures import COLUMNS
from evaluation.normalizers import NormalizerName
from evaluation.protocol import HEADING
from evaluation.wavlm_speakers import KIND as WAVLM
from utils.text_files import read_text_file

_DATA = Path(__file__).with_name("published.json")
_HEADING = re.compile(re.escape(HEADING) + r"(.+), (\d+) texts")
_SCALES = {column.key: column.scale for column in COLUMNS}
_SIMILARITIES = ("sim_o", "sim_r")


@dataclass(frozen=True)
class NamedList:
    """A test list that `--build_test_lists` wrote: its name, and how many texts it had."""

    name: str
    num_texts: int

    @property
    def _known(self) -> dict[str, Any]:
        return _data()["lists"].get(self.name, {})

    @property
    def normalizer(self) -> NormalizerName:
        """The normalizer of its published results; Whisper's if there are none."""
        return self._known.get("normalizer", "whisper")

    @property
    def language(self) -> str | None:
        return self._known.get("language")


@dataclass(frozen=True)
class PublishedRow:
    """A published result: values by key as in metrics.json, and by which model each was measured."""

    system: str
    values: Mapping[str, float]
    models: Mapping[str, str]
    source: str
    url: str
    note: str = ""


@dataclass(frozen=True)
class Published:
    """The published results of a list, and when they were looked up; `why_not` says why there are none."""

    name: str = ""
    looked_up: str = ""
    rows: tuple[PublishedRow, ...] = ()
    why_not: dict[str, str] = field(default_factory=dict)


def named_list(path: Path) -> NamedList | None:
    """The name in the first line of a test list; None for a list that was not written by `--build_test_lists`."""
    first = read_text_file(path).split("\n", 1)[0].strip()
    match = _HEADING.fullmatch(first)
    return NamedList(match[1], int(match[2])) if match else None


def published_results(
    found: NamedList | None,
    num_texts: int,
    is_continuation: bool,
    has_own_voice: bool,
    speaker_kind: str | None,
    normalizer: NormalizerName,
) -> Published:
    """The published results of the list whose `num_texts` texts are measured, if it is the whole list.

    Similarities are left out if another kind of speaker model measures: their scales differ. So are error rates after
    another normalizer. Other lists, parts of a list, and other prompts have no published results.
    """
    if found is None or found.name not in _data()["lists"]:
        return Published()
    known = _data()["lists"][found.name]
    rows = [row for row in _data()["results"] if row["list"] == found.name]
    whole = known.get("num_texts", found.num_texts)
    reasons = {}
    if rows and (num_texts, found.num_texts) != (whole, whole):
        reasons["published results"] = f"{found.name} has {whole} texts, and this list {num_texts}"
    elif rows and is_continuation != known.get("is_continuation", False):
        reasons["published results"] = (
            f"{found.name} is measured {'with' if not is_continuation else 'without'} --continual"
        )
    elif rows and has_own_voice:
        reasons["published results"] = f"{found.name} has its own prompts, and --infer_voice replaces them"
    if reasons or not rows:
        return Published(found.name, why_not=reasons)
    left_out: set[str] = set()
    if speaker_kind is not None and speaker_kind != WAVLM:
        left_out.update(_SIMILARITIES)
        reasons["published similarities"] = f"they are by {WAVLM}; give --speaker_model its wavlm_large_finetune.pth"
    if normalizer != known["normalizer"]:
        left_out.update(("wer", "cer"))
        reasons["published error rates"] = f"they are comparable with --normalizer {known['normalizer']}"
    shown = tuple(row for row in (_row(row, left_out) for row in rows) if row.values)
    return Published(found.name, _data()["looked_up"], shown, reasons)


def _row(row: Mapping[str, Any], left_out: set[str]) -> PublishedRow:
    source = _data()["sources"][row["source"]]
    values = {key: value for key, value in row["values"].items() if key not in left_out}
    return PublishedRow(
        system=row["system"],
        values={key: round(value / _SCALES[key], 9) for key, (value, _) in values.items()},
        models={key: _data()["models"][model] for key, (_, model) in values.items()},
        source=source["title"],
        url=source["url"],
        note=row.get("note", ""),
    )


@cache
def _data() -> dict[str, Any]:
    return json.loads(_DATA.read_text(encoding="utf-8"))
