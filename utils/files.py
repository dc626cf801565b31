"""Atomic writes and file locks."""

import errno
import fcntl
import filecmp
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Atomic write: gives a temporary path, whose file replaces `path` if the block ends without an error.

    An OSError about a lack of room names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: two machines that share the folder may use the same one.
    temporary = path.with_name(f".{uuid4().hex}.part{path.suffix}")
    try:
        yield temporary
        fsync(temporary)
        temporary.replace(path)
    except OSError as error:
        # Writing to an open file, and not opening it, is what fails then: the system's error names none.
        if error.errno in _NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Write JSON atomically. Raises ValueError if a number is infinite or not a number, which JSON does not have."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically, unless an equal one is there."""
    if not (target.is_file() and filecmp.cmp(source, target, shallow=False)):
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)


def copy_folder(source: Path, target: Path, patterns: Sequence[str]) -> None:
    """Copy the files of a folder that match a pattern, unless equal ones are there. What `target` held is replaced."""
    names = sorted({path.name for pattern in patterns for path in source.glob(pattern) if path.is_file()})
    if target.is_dir():
        same, _, _ = filecmp.cmpfiles(source, target, names, shallow=False)
        if len(same) == len(names) == len(list(target.iterdir())):
            return
    temporary = target.with_name(f".{uuid4().hex}.part")
    try:
        temporary.mkdir(parents=True)
        for name in names:
            shutil.copyfile(source / name, temporary / name)
            fsync(temporary / name)
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def file_lock(path: Path, waits: bool = False) -> Iterator[str | None]:
    """Hold a lock on a file for the block. Gives None, or a description of the process that holds it already.

    With `waits` it waits for that process, and gives None.

    The system releases the lock when the process ends, even if it is killed. The file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            yield file.read().strip() or "another process"
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield None


def fsync(path: Path) -> None:
    """Sync a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
