"""Custom corpora as JSON lines or lhotse CutSets."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processors.custom.files import (
    AUDIO_NAMES,
    ID_NAMES,
    LANGUAGE_NAMES,
    SPEAKER_NAMES,
    SPLIT_FIELDS,
    SPLIT_NAMES,
    TEXT_NAMES,
    find_audio,
    is_file,
    json_lines,
    unreadable_line,
    without_suffix,
)
from processors.custom.tables import named_split
from processors.manifest import Split
from processors.splits import FoundUtterance


def cut_manifests(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("[!.]*.jsonl.gz")) if "cuts" in path.name]


def read_cut_manifests(folder: Path) -> Iterator[FoundUtterance]:
    for manifest in cut_manifests(folder):
        yield from read_json_rows(manifest)


def json_manifests(folder: Path) -> list[Path]:
    """`metadata.jsonl`, or the only .jsonl file of a folder; none if there are several others."""
    lists = [path for path in sorted(folder.glob("[!.]*.jsonl")) if is_file(path)]
    named = folder / "metadata.jsonl"
    return [named] if named in lists else lists if len(lists) == 1 else []


def read_json_manifests(folder: Path) -> Iterator[FoundUtterance]:
    for manifest in json_manifests(folder):
        yield from read_json_rows(manifest)


def read_json_rows(path: Path) -> Iterator[FoundUtterance]:
    """JSON lines with the field names of Emilia, NeMo, Hugging Face or our own, or lhotse cuts.

    The split of cuts is given by the word train, dev, valid or test in the file's name.
    """
    speaker = path.resolve().parent.name
    words = re.split(r"[^a-z]+", path.name.lower())
    file_split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)
    for number, row in json_lines(path):
        if row is None:
            yield unreadable_line(path, number, speaker, f"{path}, line {number}: no JSON object")
        elif str(row.get("type", "")).endswith("Cut"):
            yield _cut(path, number, row, speaker, file_split)
        else:
            yield _json_row(path, number, row, speaker)


def _json_row(path: Path, number: int, row: dict[str, Any], default_speaker: str) -> FoundUtterance:
    split = named_split(_field(row, SPLIT_FIELDS), f"{path}, line {number}")
    audio, text, speaker, id_ = (_field(row, names) for names in (AUDIO_NAMES, TEXT_NAMES, SPEAKER_NAMES, ID_NAMES))
    if isinstance(audio, dict):
        # Hugging Face's audio feature. Audio bytes inside the line are not supported.
        audio = audio.get("path")
    if not isinstance(audio, str) or not audio:
        problem = f"{path}, line {number}: no audio: none of the fields {', '.join(AUDIO_NAMES)} names a file"
        return unreadable_line(path, number, default_speaker, problem)
    missing = None
    if not any(name in row for name in TEXT_NAMES):
        missing = f"no transcript: none of the fields {', '.join(TEXT_NAMES)} is in {path}, line {number}"
    offset = row.get("offset")
    duration = row.get("duration")
    # NeMo's offset, which may be 0, and duration select a part of a recording; a duration alone is that of the file.
    is_part = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (offset, duration))
    return FoundUtterance(
        id=without_suffix(audio.lstrip("/")) if id_ is None else str(id_),
        audio_path=str(find_audio(path.parent, audio, ())),
        text=text if isinstance(text, str) else None,
        speaker=default_speaker if speaker is None else str(speaker),
        split=split,
        start_seconds=float(offset) if is_part and offset else 0.0,
        duration_seconds=float(duration) if is_part and duration else None,
        problem=missing,
        language=str(_field(row, LANGUAGE_NAMES) or ""),
        place=f"{path.name}, line {number}",
    )


def _field(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The first non-empty field of these names."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _cut(path: Path, number: int, row: dict[str, Any], default_speaker: str, split: Split | None) -> FoundUtterance:
    # Imported here, as it takes seconds and is needed for cuts only.
    from lhotse.serialization import deserialize_item

    try:
        cut = deserialize_item(row)
        supervision = cut.supervisions[0] if cut.supervisions else None
        obstacle = _obstacle(cut)
        whole = obstacle or (cut.start == 0 and abs(cut.duration - cut.recording.duration) < 1e-3)
        return FoundUtterance(
            id=cut.id,
            audio_path=str(path) if obstacle else _source_path(path, cut.recording),
            text=supervision.text if supervision else None,
            speaker=(supervision.speaker if supervision else None) or default_speaker,
            split=split,
            start_seconds=0.0 if obstacle else float(cut.start),
            duration_seconds=None if whole else float(cut.duration),
            problem=f"{path}, line {number}: {obstacle}" if obstacle else None,
            language=(supervision.language if supervision else None) or "",
            place=f"{path.name}, line {number}",
        )
    except Exception:  # Lhotse raises many types for a broken cut.
        return unreadable_line(path, number, default_speaker)


def _obstacle(cut: Any) -> str | None:
    """Why the audio of a cut is not a part of one file; None if it is."""
    recording = getattr(cut, "recording", None)
    if recording is None:
        return f"a {type(cut).__name__} that is not a part of one recording"
    if len(recording.sources) != 1 or recording.sources[0].type != "file":
        return "a recording that is not one file"
    channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
    if sorted(channels) != sorted(recording.channel_ids):
        return "some of the channels of a recording"
    transforms = (item if isinstance(item, dict) else item.to_dict() for item in recording.transforms or [])
    if any(transform["name"] != "Resample" for transform in transforms):
        return "a recording with transforms"
    return None


def _source_path(path: Path, recording: Any) -> str:
    """A recording's file: beside the manifest if it exists there, else in the working folder, as in lhotse."""
    source = Path(recording.sources[0].source)
    beside_manifest = path.parent / source
    return str(beside_manifest if is_file(beside_manifest) else source)
