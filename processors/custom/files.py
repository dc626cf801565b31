"""What the readers of custom corpora share: names, audio files, lines. No audio is opened here."""

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
# Names of fields in headings and JSON lines, those that go first in front.
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
# To try behind a name without a suffix. Each costs a look at the disk, so the usual ones come first.
_USUAL_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
_SUFFIXES = (*_USUAL_SUFFIXES, *sorted(AUDIO_SUFFIXES - set(_USUAL_SUFFIXES)))


def read_text(path: Path) -> str | None:
    """The text of a file, whatever its encoding; None where there is no such file, or it is no text."""
    try:
        return read_text_file(path)
    except UserError as error:
        if is_file(path):
            log.warning("%s", error)
        return None


def text_lines(path: Path) -> list[str]:
    """The lines of a file, none where it cannot be read. Only line feeds end one."""
    return [line.rstrip("\r") for line in (read_text(path) or "").split("\n")]


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(line number from 1, object) of each line that is not blank; None for a line that is no JSON object."""
    try:
        with _open_lines(path) as lines:
            # Of UTF-16 a line feed is no single byte: such a file is decoded as a whole.
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
        raise UserError(f"{path}: cannot be read to its end ({error}); make it again") from error


def _open_lines(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _encoding_of_other_lines(path: Path) -> str:
    """The encoding of a file's lines that are not UTF-8: of all together, as one line is too short to tell."""
    with _open_lines(path) as lines:
        content = b"".join(line for line in lines if not _is_utf8(line))
    try:
        return foreign_encoding(content, path)
    except UserError:
        return "utf-8"  # No text: each such line is named as one that is no JSON.


def _json_object(line: bytes, encoding: str | None) -> dict[str, Any] | None:
    """The object of a line, in UTF-8 or else in `encoding`."""
    try:
        row = json.loads(line.decode("utf-8" if encoding is None or _is_utf8(line) else encoding).lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def unreadable_line(path: Path, line_number: int, speaker: str, problem: str | None = None) -> FoundUtterance:
    """A row that stage 1 will fail on and name, so that a broken line of a manifest does not vanish."""
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
    """A name without the suffix of an audio file; other dots belong to the name."""
    return name[: -len(Path(name).suffix)] if is_audio_name(name) else name


def find_audio(folder: Path, name: str, subfolders: tuple[str, ...] = ("wavs", "clips", "audio")) -> Path:
    """Path of the audio called `name`, which may lack its suffix or be an absolute path; the first candidate if none
    exists.
    """
    # Lists that were made on Windows name files on others, too.
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
    """The audio files of a folder, by name; hidden ones left out."""
    return [path for path in sorted(folder.glob("[!.]*")) if is_audio_name(path.name) and is_file(path)]
