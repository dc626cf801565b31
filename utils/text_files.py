"""Text of files whose encoding nobody wrote down."""

import codecs
from functools import lru_cache
from pathlib import Path

from charset_normalizer import from_bytes

from utils.errors import UserError
from utils.log import log

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before UTF-16, whose mark it begins with.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What a library guesses from fewer letters beyond ASCII is chance: Western Europe is likelier then.
_MIN_LETTERS = 20


def read_text_file(path: Path) -> str:
    """The text of a file: UTF-8, what its byte order mark says, or the encoding that its bytes look like.

    An encoding that is guessed is logged once a file. Raises UserError when the file cannot be read, or is no text.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read: {reason}") from error
    return decode_text(content, path)


def decode_text(content: bytes, path: Path) -> str:
    """`content` of the file `path` as text: see `read_text_file`."""
    mark = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), None)
    # UTF-16 without a mark has a zero byte in nearly every ASCII letter. Other text has a stray one at most.
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
    """The encoding that bytes of the file `path`, which are not UTF-8, look like.

    Raises UserError where they are no text.
    """
    encoding = _guess(content)
    if encoding is None:
        raise UserError(f"{path}: not text in any known encoding; save it as UTF-8")
    _log_once(path, encoding)
    return encoding


def _guess(content: bytes) -> str | None:
    """The encoding of bytes that are not UTF-8; None where they are no text."""
    num_letters = sum(byte >= 0x80 for byte in content)
    # Control characters other than blanks and line ends are in no text.
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
