"""Files that a URL may name: in an object store or behind a web server, through smart_open."""

import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

from utils.errors import UserError, first_line


def is_url(location: str) -> bool:
    return "://" in location


def fetch(location: str) -> Path:
    """A path as it is, or a copy of what a URL names, which lasts as long as this process.

    Raises UserError where the URL cannot be read.
    """
    if not is_url(location):
        return Path(location)
    from smart_open import open as open_url

    copy = Path(tempfile.mkdtemp(dir=_copies().name)) / location.rsplit("/", 1)[1]
    for attempt in (1, 2):
        try:
            with open_url(location, "rb", compression="disable") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
            break
        except Exception as error:  # Each kind of store has its own.
            if attempt == 2:
                raise UserError(f"{location}: cannot be read ({first_line(error)})") from error
            time.sleep(1)  # A network has its moments.
    return copy


@cache
def _copies() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="vallet-")
