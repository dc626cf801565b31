"""Files given by a path or by a URL of an object store or web server, through smart_open."""

import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

from utils.errors import UserError, first_line


def is_url(location: str) -> bool:
    return "://" in location


def fetch(location: str) -> Path:
    """A path unchanged, or a local copy of a URL's file that is removed when the process ends.

    Raises UserError if the URL cannot be read.
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
        except Exception as error:  # Each kind of store raises its own types.
            if attempt == 2:
                raise UserError(f"{location}: cannot be read ({first_line(error)})") from error
            time.sleep(1)  # Networks fail for moments.
    return copy


@cache
def _copies() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="vallet-")
