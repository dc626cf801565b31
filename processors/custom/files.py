"""Helpers of the readers of custom corpora: field names, lines, audio files. No audio is opened here."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from processors.manifest import Split
from processors.splits import FoundUtterance
from utils.audio import AUDIO_SUFFIXES, FOREIGN_SUFFIXES
from utils.errors import UserError
from utils.log import log
from utils.text_files import decode_text, foreign_encoding, read_text_file

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
# Names of fields in headings and JSON lines, in order of precedence.
AUDIO_NAMES = (
    *("audio", "audio_file", "audio_filepath", "audio_path", "file", "file_name", "filename", "path", "wav"),
    *("wav_path", "clip"),
)
TEXT_NAMES = (
    *("normalized_text", "text_normalized", "normalized", "text", "sentence", "transcription", "transcript"),
    *("transcript_text", "caption"),
)
SPEAKER_NAMES = ("speaker", "speaker_name", "speaker_id", "client_id", "spk")
ID_NAMES = ("id", "utt_id", "utt", "key")
SPLIT_FIELDS = ("split", "subset")
LANGUAGE_NAMES = ("language", "lang", "locale")
# Tried on a name without a suffix. Each costs a file system call, so the usual ones come first.
_USUAL_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
_SUFFIXES = (*_USUAL_SUFFIXES, *sorted(AUDIO_SUFFIXES - set(_USUAL_SUFFIXES)))


def read_text(path: Path) -> str | None:
    """The text of a file in any encoding; None if there is no such file, or it is not text."""
    try:
        return read_text_file(path)
    except UserError as error:
        if is_file(path):
            log.warning("%s", error)
        return None


def text_lines(path: Path) -> list[str]:
    """The lines of a file, split at line feeds only; none if it cannot be read."""
    return [line.rstrip("\r") for line in (read_text(path) or "").split("\n")]


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(line number from 1, object) for each non-blank line; the object is None if the line is not a JSON object.

    Raises UserError if the file cannot be read to its end.
    """
    try:
        with _open_lines(path) as lines:
            # In UTF-16 a line feed is two bytes, so such a file is decoded before it is split.
            beginning = lines.peek(4)[:4] if isinstance(lines, io.BufferedReader) else b""
            is_wide = beginning.startswith((b"\xff\xfe", b"\xfe\xff")) or 0 in beginning
            source = decode_text(lines.read(), path).encode().split(b"\n") if is_wide else lines
            encoding = None
            for number, line in enumerate(source, start=1):
                if line.strip():
                    if encoding is None and not _is_utf8(line):
                        encoding = _encoding_of_other_lines(path)
                    yield number, _json_object(line, encoding)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read to its end ({error}); create it again") from error


def _open_lines(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _encoding_of_other_lines(path: Path) -> str:
    """The encoding of a file's lines that are not UTF-8, guessed from all of them, as one line is too short."""
    with _open_lines(path) as lines:
        content = b"".join(line for line in lines if not _is_utf8(line))
    try:
        return foreign_encoding(content, path)
    except UserError:
        return "utf-8"  # Not text: each such line is reported as not being a JSON object.


def _json_object(line: bytes, encoding: str | None) -> dict[str, Any] | None:
    """The object of a line in UTF-8, or in `encoding`; None if it is not a JSON object."""
    try:
        row = json.loads(line.decode("utf-8" if encoding is None or _is_utf8(line) else encoding).lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def unreadable_line(path: Path, line_number: int, speaker: str, problem: str | None = None) -> FoundUtterance:
    """A row that stage 1 fails on and reports, so that no broken line of a manifest is silently dropped."""
    place = f"{path}:{line_number}"
    return FoundUtterance(f"{path.name}_line{line_number}", place, None, speaker, problem=problem)


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_audio_name(name: str) -> bool:
    return Path(name).suffix.lower() in AUDIO_SUFFIXES | FOREIGN_SUFFIXES


def without_suffix(name: str) -> str:
    """A name without its suffix, if that is one of audio files; other dots are part of the name."""
    return name[: -len(Path(name).suffix)] if is_audio_name(name) else name


def find_audio(folder: Path, name: str, subfolders: tuple[str, ...] = ("wavs", "clips", "audio")) -> Path:
    """Path of the audio file `name`, which may lack its suffix or be absolute; a likely path if there is no file."""
    # Lists that were made on Windows have backslashes.
    spellings = [name, name.replace("\\", "/")] if "\\" in name else [name]
    for spelling in spellings:
        suffixes = () if is_audio_name(spelling) else _SUFFIXES
        names = [*(spelling + suffix for suffix in suffixes), spelling]
        for parent in (*(folder / sub for sub in subfolders), folder):
            for candidate in names:
                if is_file(parent / candidate):
                    return parent / candidate
    return folder / (f"{subfolders[0]}/{name}.wav" if subfolders and not is_audio_name(name) else name)


def audio_files(folder: Path) -> list[Path]:
    """The audio files of a folder without hidden ones, sorted by name."""
    return [path for path in sorted(folder.glob("[!.]*")) if is_audio_name(path.name) and is_file(path)]
