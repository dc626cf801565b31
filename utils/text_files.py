"""Reads text files of unknown encoding."""

import codecs
from functools import lru_cache
from pathlib import Path

from charset_normalizer import from_bytes

from utils.errors import UserError
from utils.log import log

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before UTF-16, as its mark starts with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# With fewer letters beyond ASCII a guess is unreliable, and Western European is likelier.
_MIN_LETTERS = 20


def read_text_file(path: Path) -> str:
    """The text of a file, decoded by its byte order mark, as UTF-8, or by the encoding that its bytes look like.

    A guessed encoding is logged, once for each file. Raises UserError if the file cannot be read or is not text.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read: {reason}") from error
    return decode_text(content, path)


def decode_text(content: bytes, path: Path) -> str:
    """The text of `content`, read from the file `path`; see `read_text_file`."""
    mark = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), None)
    # In UTF-16 without a mark, nearly every ASCII letter has a zero byte. Other text has a stray one at most.
    zeros = content[:4096].count(0)
    if mark is None and zeros > len(content[:4096]) // 5:
        num_even = content[:4096:2].count(0)
        mark = "utf-16-be" if num_even > zeros // 2 else "utf-16-le"
    try:
        return content.decode(mark or "utf-8")
    except UnicodeDecodeError as error:
        if mark is not None:
            raise UserError(f"{path}: not text in {mark}; save it as UTF-8") from error
    return content.decode(foreign_encoding(content, path))


def foreign_encoding(content: bytes, path: Path) -> str:
    """Guess and log the encoding of bytes that are not UTF-8. Raises UserError if they are not text."""
    encoding = _guess(content)
    if encoding is None:
        raise UserError(f"{path}: not text in any known encoding; save it as UTF-8")
    _log_once(path, encoding)
    return encoding


def _guess(content: bytes) -> str | None:
    """The encoding of bytes that are not UTF-8; None if they are not text."""
    num_letters = sum(byte >= 0x80 for byte in content)
    # Text has no control characters other than white space.
    if any(0 < byte < 9 or 13 < byte < 32 for byte in content):
        return None
    if num_letters < _MIN_LETTERS and _decodes(content, "cp1252"):
        return "cp1252"
    best = from_bytes(content).best()
    if best is not None:
        return best.encoding
    return "cp1252" if _decodes(content, "cp1252") else None


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


@lru_cache(maxsize=1000)
def _log_once(path: Path, encoding: str) -> None:
    log.warning("%s: not UTF-8; read as %s", path, encoding)
