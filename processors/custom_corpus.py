"""A user's own corpus: a folder with metadata.csv, JSON lines, or a lhotse CutSet. No audio is opened here."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processors.manifest import Split
from processors.splits import FoundUtterance
from utils.errors import UserError
from utils.log import log
from utils.text_files import read_text_file

_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
_AUDIO_SUFFIXES = (".wav", ".flac")


def read_custom(path: Path) -> Iterator[FoundUtterance]:
    """The utterances at `path`, in the order of its files.

    - A folder with metadata.csv: lines of `id|text` or `id|speaker|text`, which of them the first well-formed line
      decides. Audio is `wavs/<id>` or `<id>` with .wav or .flac; an id may name a subfolder. Without speakers the
      folder's name is the speaker.
    - A file of JSON lines: `audio` (relative to the file) and `text`; `speaker`, `split` and `id` may be left out.
    - A lhotse CutSet as .jsonl or .jsonl.gz, or a folder of `*cuts*.jsonl.gz`; a file name with train, dev, valid or
      test in it gives the split.

    Raises:
        UserError: a gzip file is broken, or a row's `split` is none of train, valid and test.
    """
    if path.is_file() and path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _read_json_rows(path)
    elif (path / "metadata.csv").is_file():
        yield from _read_csv(path)
    elif path.is_dir():
        for manifest in sorted(path.glob("[!.]*.jsonl.gz")):
            if "cuts" in manifest.name:
                yield from _read_json_rows(manifest)


def read_text(path: Path) -> str | None:
    """The text of a file, whatever its encoding; None where there is no such file, or it is no text."""
    try:
        return read_text_file(path)
    except UserError as error:
        if _is_file(path):
            log.warning("%s", error)
        return None


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(line number from 1, object) of each line that is not blank; None for a line that is no JSON object."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                content = line.decode("utf-8-sig", errors="replace").strip()
                if content:
                    yield number, _json_object(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read to its end ({error}); make it again") from error


def unreadable_line(path: Path, line_number: int, speaker: str) -> FoundUtterance:
    """A row that stage 1 will fail on and name, so that a broken line of a manifest does not vanish."""
    return FoundUtterance(f"{path.name}_line{line_number}", f"{path}:{line_number}", None, speaker)


def _json_object(content: str) -> dict[str, Any] | None:
    try:
        row = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _read_csv(folder: Path) -> Iterator[FoundUtterance]:
    default_speaker = folder.resolve().name
    lines = (read_text(folder / "metadata.csv") or "").split("\n")
    num_fields = next((len(fields) for line in lines if (fields := _fields(line, 3))), 2)
    listed: set[Path] = set()
    audio_folders: set[Path] = set()
    for number, line in enumerate(lines):
        fields = _fields(line, num_fields)
        is_header = number == 0 and [field.lower() for field in fields] in (["id", "text"], ["id", "speaker", "text"])
        if len(fields) != num_fields or is_header:
            continue
        audio = _audio_of(folder, fields[0])
        listed.add(audio.with_suffix(""))
        if _is_file(audio):
            audio_folders.add(audio.parent)
        speaker = fields[1] if num_fields == 3 else default_speaker
        yield FoundUtterance(_id_of(fields[0]), str(audio), fields[-1], speaker or default_speaker)
    for audio_folder in sorted(audio_folders or {folder, folder / "wavs"}):
        for audio in sorted(audio_folder.glob("[!.]*")):
            if audio.suffix in _AUDIO_SUFFIXES and audio.with_suffix("") not in listed:
                yield FoundUtterance(audio.stem, str(audio), None, default_speaker)


def _fields(line: str, num_fields: int) -> list[str]:
    """At most `num_fields` fields of a line, the last with any further `|` in it; none where id or text is missing."""
    fields = [field.strip() for field in line.split("|", num_fields - 1)]
    return fields if len(fields) >= 2 and fields[0] and fields[-1] else []


def _id_of(name: str) -> str:
    suffix = Path(name).suffix
    return name[: -len(suffix)] if suffix in _AUDIO_SUFFIXES else name


def _audio_of(folder: Path, id_: str) -> Path:
    """Where the audio of an id lies; the first place that it could lie where it is nowhere."""
    names = [f"{_id_of(id_)}{suffix}" for suffix in _AUDIO_SUFFIXES]
    candidates = [parent / name for parent in (folder / "wavs", folder) for name in names]
    return next((path for path in candidates if _is_file(path)), candidates[0])


def _read_json_rows(path: Path) -> Iterator[FoundUtterance]:
    speaker = path.resolve().parent.name
    words = re.split(r"[^a-z]+", path.name.lower())
    file_split = next((_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES), None)
    for number, row in json_lines(path):
        if row and str(row.get("type", "")).endswith("Cut"):
            yield _cut(path, number, row, speaker, file_split)
        elif row and isinstance(row.get("audio"), str) and row["audio"]:
            yield _json_row(path, number, row, speaker)
        else:
            yield unreadable_line(path, number, speaker)


def _json_row(path: Path, number: int, row: dict[str, Any], default_speaker: str) -> FoundUtterance:
    split = row.get("split")
    if split and str(split).lower() not in _SPLIT_NAMES:
        raise UserError(f"{path}, line {number}: split is {split!r}; allowed are train, valid and test")
    audio, text, id_, speaker = (row.get(key) for key in ("audio", "text", "id", "speaker"))
    return FoundUtterance(
        id=_id_of(str(audio).lstrip("/")) if id_ in (None, "") else str(id_),
        audio_path=str(path.parent / str(audio)),
        text=text if isinstance(text, str) else None,
        speaker=default_speaker if speaker in (None, "") else str(speaker),
        split=_SPLIT_NAMES[str(split).lower()] if split else None,
    )


def _cut(path: Path, number: int, row: dict[str, Any], default_speaker: str, split: Split | None) -> FoundUtterance:
    # Imported here, as it takes seconds and only cuts need it.
    from lhotse.serialization import deserialize_item

    try:
        cut = deserialize_item(row)
        supervision = cut.supervisions[0] if cut.supervisions else None
        obstacle = _obstacle(cut)
        whole = obstacle or (cut.start == 0 and abs(cut.duration - cut.recording.duration) < 1e-3)
        return FoundUtterance(
            id=cut.id,
            audio_path=f"{path}:{number}: {obstacle}" if obstacle else _source_path(path, cut.recording),
            text=supervision.text if supervision else None,
            speaker=(supervision.speaker if supervision else None) or default_speaker,
            split=split,
            start_seconds=0.0 if obstacle else float(cut.start),
            duration_seconds=None if whole else float(cut.duration),
        )
    # Whatever lhotse makes of a broken cut, the other cuts are still good.
    except Exception:
        return unreadable_line(path, number, default_speaker)


def _obstacle(cut: Any) -> str | None:
    """Why the audio of a cut is more than a stretch of one file; None where it is just that."""
    recording = getattr(cut, "recording", None)
    if recording is None:
        return f"a {type(cut).__name__} that is no part of one recording"
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
    """A recording's file: beside the manifest where it lies there, else from the working folder, as lhotse does."""
    source = Path(recording.sources[0].source)
    beside_manifest = path.parent / source
    return str(beside_manifest if _is_file(beside_manifest) else source)
