"""espeak-ng works from any installation path and with any temporary folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import espeakng_loader
import pytest

from tests.conftest import ROOT

PROGRAM = """
import sys
import espeakng_loader
data = sys.argv[1]
if data:
    espeakng_loader.get_data_path = lambda: data
from processors.frontends import build_phonemizer
from utils.errors import UserError
try:
    print("".join(build_phonemizer("espeak", "en-us").phonemize(["hello"])[0]))
except UserError as error:
    print(f"error: {error}")
"""


def say_hello(data: Path | str = "", **environment: str) -> str:
    """The phones of "hello" from a separate process."""
    own = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", PROGRAM, str(data)]
    done = subprocess.run(command, env=own, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout.strip()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.mark.parametrize("length", [120, 170, 400])
def test_data_at_a_long_path_is_read(tmp_path: Path, home: Path, length: int) -> None:
    folder = tmp_path
    while len(str(folder)) < length:
        folder = folder / "a_long_name_of_a_folder"
    data = Path(shutil.copytree(espeakng_loader.get_data_path(), folder / "espeak-ng-data"))
    assert say_hello(data, HOME=str(home)) == "həloʊ"
    # Again, with the links that exist now.
    assert say_hello(data, HOME=str(home)) == "həloʊ"


@pytest.mark.parametrize("kind", ["missing", "read-only file"])
def test_an_unusable_temporary_folder_is_not_needed(tmp_path: Path, home: Path, kind: str) -> None:
    folder = tmp_path / "temporary"
    if kind == "read-only file":
        folder.touch()
    assert say_hello(TMPDIR=str(folder), HOME=str(home)) == "həloʊ"


def mounted(folder: Path, options: str) -> str:
    """A shell command that mounts a private file system; skips the test if that is not allowed."""
    folder.mkdir()
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    return f"mount -t tmpfs -o {options} none {folder} &&"


@pytest.mark.parametrize("options", ["noexec", "size=8k"])
def test_a_full_or_noexec_temporary_folder_is_not_needed(tmp_path: Path, home: Path, options: str) -> None:
    folder = tmp_path / "temporary"
    mount = mounted(folder, options)
    script = tmp_path / "say.sh"
    script.write_text(f"{mount} exec {sys.executable} {tmp_path / 'say.py'} ''")
    (tmp_path / "say.py").write_text(PROGRAM)
    own = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "HOME": str(home)}
    done = subprocess.run(["unshare", "-rm", "sh", str(script)], env=own, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "həloʊ"), done.stderr


def test_where_no_folder_can_be_used_one_line_names_tmpdir(tmp_path: Path, monkeypatch) -> None:
    from processors.frontends import espeak_library
    from utils.errors import UserError

    def fail(*_: object, **__: object) -> None:
        raise OSError("failed to map segment from shared object")

    monkeypatch.setattr(espeak_library.EspeakBackend, "supported_languages", fail)
    with pytest.raises(UserError, match=r"^espeak-ng cannot be loaded .*failed to map segment.* set TMPDIR"):
        espeak_library.espeak_languages()
