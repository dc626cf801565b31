"""Custom corpora as tables: metadata.csv or metadata.tsv, with or without a heading, and Common Voice."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from processors.custom.files import (
    AUDIO_NAMES,
    ID_NAMES,
    LANGUAGE_NAMES,
    SPEAKER_NAMES,
    SPLIT_FIELDS,
    SPLIT_NAMES,
    TEXT_NAMES,
    audio_files,
    find_audio,
    is_audio_name,
    is_file,
    read_text,
    text_lines,
    unreadable_line,
    without_suffix,
)
from processors.manifest import Split
from processors.splits import FoundUtterance
from utils.errors import UserError

_SEPARATORS = ("|", "\t", ",")
_KNOWN = {*AUDIO_NAMES, *TEXT_NAMES, *SPEAKER_NAMES, *ID_NAMES, *SPLIT_FIELDS}
# With fewer rows, the same text or a different speaker in each row is plausible.
_MIN_ROWS = 10
_HEADING_ADVICE = "put a heading with the columns' names first, such as id|speaker|text or audio_file|text|speaker"


def tables_of(folder: Path) -> list[Path]:
    """`metadata.csv` or else `metadata.tsv`, as a list of at most one."""
    return [path for name in ("metadata.csv", "metadata.tsv") if is_file(path := folder / name)][:1]


def read_tables(folder: Path, split: Split | None = None) -> Iterator[FoundUtterance]:
    for path in tables_of(folder):
        yield from _read_table(path, split)


def _read_table(path: Path, split: Split | None) -> Iterator[FoundUtterance]:
    """Rows of a table with a heading, or of `id|text`, `id|speaker|text` or `id|raw text|normalized text`.

    Audio files that no row names follow as rows without a transcript. Raises UserError if the columns of a table
    without a heading are not plausible.
    """
    heading = _heading(path)
    rows = list(_plain_rows(path, split) if heading is None else _headed_rows(path, *heading, split))
    listed = {Path(row.audio_path).with_suffix("") for row in rows}
    folders = {Path(row.audio_path).parent for row in rows if is_file(Path(row.audio_path))}
    yield from rows
    for folder in sorted(folders or {path.parent, path.parent / "wavs"}):
        for audio in audio_files(folder):
            if audio.with_suffix("") not in listed:
                yield FoundUtterance(audio.stem, str(audio), None, path.parent.resolve().name, split)


def _heading(path: Path) -> tuple[str, list[str]] | None:
    """The separator and the lower-cased column names of the heading; None if the table has no heading."""
    first = next((line for line in text_lines(path) if line.strip()), "")
    separator = max(_SEPARATORS, key=lambda one: sum(name in _KNOWN for name in _names(first, one)))
    names = _names(first, separator)
    if sum(name in _KNOWN for name in names) < 2:
        return None
    for kind, wanted in (("audio", (*AUDIO_NAMES, *ID_NAMES)), ("text", TEXT_NAMES)):
        if not set(names) & set(wanted):
            raise UserError(f"{path}: no column of {kind} in the heading {first.strip()!r}; name one of {wanted}")
    return separator, names


def _names(line: str, separator: str) -> list[str]:
    return [name.strip().strip('"').lower() for name in line.split(separator)]


def _headed_rows(path: Path, separator: str, names: Sequence[str], split: Split | None) -> Iterator[FoundUtterance]:
    default_speaker = path.parent.resolve().name
    # Texts with commas are quoted. With other separators, a quotation mark is part of the text.
    csv.field_size_limit(2**31 - 1)
    content = io.StringIO(read_text(path) or "", newline="")
    if separator == ",":
        reader = csv.reader(content, strict=True)
    else:
        reader = csv.reader(content, delimiter=separator, quoting=csv.QUOTE_NONE)
    has_heading = False
    for fields in _csv_rows(reader, path):
        if not any(field.strip() for field in fields):
            continue
        if not has_heading:
            has_heading = True
            continue
        if separator == "|" and names[-1] in TEXT_NAMES:
            # If the text is the last field, further bars are part of it.
            fields[len(names) - 1 :] = ["|".join(fields[len(names) - 1 :])] if len(fields) >= len(names) else []
        if len(fields) != len(names):
            problem = f"{len(fields)} fields, where the heading has {len(names)}"
            yield unreadable_line(path, reader.line_num, default_speaker, problem)
            continue
        if any("\n" in field for field in fields):
            # Otherwise the rows that a missing quotation mark swallowed would be silently dropped.
            problem = "a field goes over several lines; is a quotation mark missing?"
            yield unreadable_line(path, reader.line_num, default_speaker, problem)
            continue
        row = {name: field.strip() for name, field in zip(names, fields, strict=True)}
        audio, text, speaker, id_ = (_first(row, keys) for keys in (AUDIO_NAMES, TEXT_NAMES, SPEAKER_NAMES, ID_NAMES))
        if not audio and not id_:
            yield unreadable_line(path, reader.line_num, default_speaker, "no audio: its field is empty")
            continue
        yield FoundUtterance(
            id=id_ or without_suffix(audio.lstrip("/")),
            audio_path=str(find_audio(path.parent, audio or id_)),
            text=text or None,
            speaker=speaker or default_speaker,
            split=named_split(_first(row, SPLIT_FIELDS), f"{path}, line {reader.line_num}") or split,
            language=_first(row, LANGUAGE_NAMES),
            place=f"{path.name}, line {reader.line_num}",
        )


def _csv_rows(reader: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise UserError(f"{path}: not a table ({error}); is a quotation mark missing?") from error


def _first(row: dict[str, str], names: Sequence[str]) -> str:
    """The first non-empty field of these names."""
    return next((row[name] for name in names if row.get(name)), "")


def named_split(name: object, place: str) -> Split | None:
    """The split that `name` stands for; None if it is empty. Raises UserError for an unknown name."""
    if not name:
        return None
    if str(name).lower() not in SPLIT_NAMES:
        raise UserError(f"{place}: split is {name!r}; allowed are train, valid and test")
    return SPLIT_NAMES[str(name).lower()]


def _plain_rows(path: Path, split: Split | None) -> Iterator[FoundUtterance]:
    """Rows of a table without a heading; the first well-formed line determines the number of columns."""
    default_speaker = path.parent.resolve().name
    separator = "\t" if path.suffix == ".tsv" else "|"
    lines = text_lines(path)
    num_fields = next((len(fields) for line in lines if (fields := _fields(line, separator, 3))), 2)
    found = [(number, _fields(line, separator, num_fields)) for number, line in enumerate(lines, start=1)]
    numbered = [(number, fields) for number, fields in found if len(fields) == num_fields]
    rows = [fields for _, fields in numbered]
    has_speakers = num_fields == 3 and not _is_normalized_text(rows)
    _check_columns(path, rows, has_speakers)
    for number, fields in numbered:
        speaker = fields[1] if has_speakers else default_speaker
        audio = str(find_audio(path.parent, fields[0], ("wavs",)))
        place = f"{path.name}, line {number}"
        id_ = without_suffix(fields[0])
        yield FoundUtterance(id_, audio, fields[-1], speaker or default_speaker, split, place=place)


def _fields(line: str, separator: str, num_fields: int) -> list[str]:
    """Split a line at most into `num_fields` fields; empty if the id or the text is missing."""
    fields = [field.strip() for field in line.split(separator, num_fields - 1)]
    return fields if len(fields) >= 2 and fields[0] and fields[-1] else []


def _is_normalized_text(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the second column is the third as raw text, as in LJSpeech: most rows share half of the words."""
    alike = 0
    for _, raw, text in rows:
        first, second = (set(re.findall(r"\w+", part.lower())) for part in (raw, text))
        alike += len(first) > 1 and len(first & second) >= 0.5 * min(len(first), len(second))
    return bool(rows) and alike > len(rows) / 2


def _check_columns(path: Path, rows: Sequence[Sequence[str]], has_speakers: bool) -> None:
    """Raises UserError if the contents of the columns are not plausible for a table without a heading."""
    if not rows:
        return
    texts, num_rows = [row[-1] for row in rows], len(rows)
    problem = None
    if sum(map(is_audio_name, texts)) > num_rows / 2:
        problem = "the last column, which would be the text, names audio files"
    elif num_rows >= _MIN_ROWS and len(set(texts)) == 1:
        problem = f"the last column, which would be the text, is {texts[0]!r} in each row"
    elif has_speakers:
        speakers = [row[1] for row in rows]
        if _mean_words(speakers) >= 2 and _mean_words(texts) < 2:
            problem = f"the last column, such as {texts[0]!r}, looks like speakers, and the second like texts"
        elif num_rows >= _MIN_ROWS and len(set(speakers)) > 0.9 * num_rows:
            problem = f"the second column, such as {speakers[0]!r}, would be the speaker, and is another in each row"
    if problem is not None:
        raise UserError(f"{path}: {problem}; {_HEADING_ADVICE}")


def _mean_words(column: Sequence[str]) -> float:
    return sum(len(field.split()) for field in column) / len(column)


def common_voice_tables(folder: Path) -> list[tuple[Path, Split | None]]:
    """Common Voice's tables with their splits: train, dev and test, or else all validated clips."""
    parts: list[tuple[Path, Split | None]] = [
        (folder / f"{name}.tsv", SPLIT_NAMES[name])
        for name in ("train", "dev", "test")
        if _is_common_voice(folder, name)
    ]
    if any(split == "train" for _, split in parts):
        return parts
    return [(folder / "validated.tsv", None)] if _is_common_voice(folder, "validated") else []


def _is_common_voice(folder: Path, name: str) -> bool:
    path = folder / f"{name}.tsv"
    return is_file(path) and {"path", "sentence"} <= set(_names(text_lines(path)[0], "\t"))


def read_common_voice(folder: Path) -> Iterator[FoundUtterance]:
    for path, split in common_voice_tables(folder):
        yield from _headed_rows(path, "\t", _names(text_lines(path)[0], "\t"), split)
