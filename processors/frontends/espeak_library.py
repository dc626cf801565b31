"""Loads espeak-ng in spite of long installation paths and of temporary folders that are full or noexec."""

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import espeakng_loader
from phonemizer.backend import EspeakBackend
from phonemizer.backend.espeak.wrapper import EspeakWrapper

from utils.errors import UserError, first_line

Result = TypeVar("Result")

# espeak-ng has 160 bytes for a path, and appends names such as /voices/... to that of its data.
_MAX_DATA_PATH_BYTES = 100
# Phonemizer must treat no character as a punctuation mark: `EspeakPhonemizer` splits marks off first.
_NEVER = re.compile(r"(?!)")


def espeak_languages() -> list[str]:
    """The voices that espeak-ng has, sorted. Raises UserError if it cannot be loaded."""
    return with_library(lambda: sorted(EspeakBackend.supported_languages()))


def espeak_backend(language: str) -> EspeakBackend:
    """A backend that gives IPA without stress.

    Raises UserError if espeak-ng cannot be loaded, RuntimeError if the voice does not work.
    """
    return with_library(
        lambda: EspeakBackend(
            language,
            punctuation_marks=_NEVER,
            with_stress=False,
            language_switch="remove-flags",
            logger=logging.Logger("phonemizer", level=logging.CRITICAL),
        )
    )


def with_library(build: Callable[[], Result]) -> Result:
    """Call `build`, which loads espeak-ng, with the first temporary folder that works.

    phonemizer writes a copy of the library to a temporary folder and loads it from there. That folder may be full, or
    mounted noexec. Raises UserError if no folder works.
    """
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(str(espeak_data_path()))
    problem: Exception | None = None
    for folder in (None, *_own_folders()):
        try:
            with _temporary_folder(folder):
                return build()
        except OSError as error:
            problem = problem or error
    reason = first_line(problem) if problem is not None else "no folder"
    raise UserError(
        f"espeak-ng cannot be loaded from the temporary folder, which may be full, or mounted noexec ({reason}); set "
        "TMPDIR to a folder that has free space and is mounted exec"
    ) from problem


@contextmanager
def _temporary_folder(folder: Path | None) -> Iterator[None]:
    """Make `tempfile` use this folder inside the block; None keeps its own."""
    former = tempfile.tempdir
    if folder is not None:
        tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = former


def espeak_data_path() -> Path:
    """The folder of espeak-ng's data; if its path is too long for espeak-ng, a folder of links to its content.

    Raises UserError if no such folder can be made.
    """
    path = Path(espeakng_loader.get_data_path())
    if len(os.fsencode(path)) <= _MAX_DATA_PATH_BYTES:
        return path
    # The name depends on the data's path only, so that all processes share the folder.
    name = "espeak-" + hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    for parent in _own_folders():
        folder = parent / name
        if len(os.fsencode(folder)) > _MAX_DATA_PATH_BYTES:
            continue
        with suppress(OSError):
            if not _holds_links_to(folder, path):
                _make_links(path, folder)
            return folder
    raise UserError(
        f"espeak-ng cannot read its data at {path}, whose path is too long, and no short folder can be written; set "
        "TMPDIR to one, or move the environment"
    )


def _holds_links_to(folder: Path, path: Path) -> bool:
    return all((folder / entry.name).exists() for entry in path.iterdir())


def _make_links(path: Path, folder: Path) -> None:
    """Link to each entry of `path`, as phonemizer would resolve a single link; copy if the file system has no links."""
    # Written under a temporary name: another process never sees an incomplete folder.
    temporary = folder.with_name(f".{uuid4().hex}")
    try:
        temporary.mkdir()
        try:
            for entry in path.iterdir():
                (temporary / entry.name).symlink_to(entry)
        except OSError:
            shutil.rmtree(temporary)
            shutil.copytree(path, temporary)
        # Links that a removed environment left are broken.
        shutil.rmtree(folder, ignore_errors=True)
        try:
            temporary.rename(folder)
        except OSError:
            # Another process may have been faster.
            if not _holds_links_to(folder, path):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _own_folders() -> Iterator[Path]:
    """Writable folders that no other user can write to, the preferred first.

    A library that another user put there would be executed.
    """
    user = os.getuid()
    parents = []
    with suppress(OSError):
        parents.append(Path(tempfile.gettempdir()) / f".vallet-{user}")
    with suppress(RuntimeError):
        parents.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vallet")
    parents += [Path("/tmp") / f".vallet-{user}", Path("/var/tmp") / f".vallet-{user}"]
    for folder in parents:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = folder.lstat()
        except OSError:
            continue
        if folder.is_dir() and not folder.is_symlink() and status.st_uid == user and not status.st_mode & 0o022:
            yield folder
