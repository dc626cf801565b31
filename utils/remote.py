"""Files given by a path or by a URL of an object store or web server, through smart_open."""

import fcntl
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from utils.errors import UserError, first_line
from utils.files import atomic_write


def is_url(location: str) -> bool:
    return "://" in location


def fetch(location: str) -> Path:
    """A path unchanged, or a local copy of a URL's file that is removed when the process ends.

    Raises UserError if the URL cannot be read.
    """
    if not is_url(location):
        return Path(location)
    copy = Path(tempfile.mkdtemp(dir=_copies().name)) / location.rsplit("/", 1)[1]
    _download(location, copy, waits_seconds=(1,))
    return copy


@dataclass(frozen=True)
class MachineCache:
    """Local copies of URLs' files, in a folder that all processes of a machine share; each is downloaded once.

    Without a folder, a process has its own copies, which are removed when it ends.
    """

    folder: Path | None = None

    def path(self, location: str) -> Path:
        """A path unchanged, or the local copy of a URL's file.

        The first process that needs it downloads it, and the others wait. Raises UserError if that fails.
        """
        if not is_url(location):
            return Path(location)
        copy = self._copy_of(location)
        if not copy.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.with_name(f"{copy.name}.lock").open("w") as lock:
                # Also excludes threads of this process. Workers are forked before any thread holds such a lock.
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not copy.is_file():
                    _download(location, copy, waits_seconds=(1, 5, 25))
        return copy

    def remove(self, location: str) -> None:
        if is_url(location):
            self._copy_of(location).unlink(missing_ok=True)

    def _copy_of(self, location: str) -> Path:
        return (self.folder or Path(_copies().name)) / location.replace("://", "/").replace("..", "_")


def _download(location: str, copy: Path, waits_seconds: Sequence[float]) -> None:
    """Download a URL's file, with another try after each wait, as networks fail for moments."""
    from smart_open import open as open_url

    waits = iter(waits_seconds)
    while True:
        try:
            with (
                atomic_write(copy) as part,
                open_url(location, "rb", compression="disable") as source,
                part.open("wb") as target,
            ):
                shutil.copyfileobj(source, target)
            return
        except Exception as error:  # Each kind of store raises its own types.
            # Another try does not help against 403 and 404.
            is_final = getattr(getattr(error, "response", None), "status_code", None) in (403, 404)
            seconds = None if is_final else next(waits, None)
            if seconds is None:
                raise UserError(f"{location}: cannot be read ({first_line(error)})") from error
            time.sleep(seconds)


@cache
def _copies() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="vallet-")
