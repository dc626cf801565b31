"""Which Python `run.sh` starts: that of the active environment, if it has what every stage needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

RUN_SH = ROOT / "egs" / "tts" / "VALLE" / "run.sh"
# Loaded by Python itself at its start. Packages that are hidden are as if they had never been installed.
HIDING = """
import sys
from importlib.machinery import PathFinder


class Hiding:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.split(".")[0] in {hidden!r} else PathFinder.find_spec(name, path, target)


sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
"""
ENCODEC = ("encodec",)
NOT_FREE = (*ENCODEC, "phonemizer", "espeakng_loader")


def run_sh(
    *flags: str, folder: Path, hidden: tuple[str, ...], script: Path = RUN_SH
) -> subprocess.CompletedProcess[str]:
    """`run.sh` with this environment as the active one, without the hidden packages."""
    (folder / "sitecustomize.py").write_text(HIDING.format(hidden=hidden))
    environment = {
        **os.environ,
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    command = ["sh", str(script), *flags]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "flags",
    [
        ("--stage", "1"),
        ("--stage", "2", "--name", "x", "--model_train_stage", "1"),
        ("--stage", "3", "--infer_expt_dir", "x", "--infer_mode", "single"),
        ("--stage", "4"),
        ("--stage", "5"),
    ],
    ids=lambda flags: flags[1],
)
def test_every_stage_starts_without_packages_that_may_be_removed(flags: tuple[str, ...], tmp_path: Path) -> None:
    done = run_sh(*flags, "--no_such_flag", folder=tmp_path, hidden=NOT_FREE)
    # The stage's program says so, not the script.
    assert done.stderr.startswith("run.sh: unknown flag --no_such_flag in this stage")


@pytest.mark.parametrize(
    ("hidden", "extractor"), [(ENCODEC, "espeak"), (NOT_FREE, "graphemes")], ids=["encodec", "not free"]
)
def test_texts_are_read_without_packages_that_may_be_removed(
    hidden: tuple[str, ...], extractor: str, tmp_path: Path
) -> None:
    flags = ("--stage", "1", "--show_text", "Hi", "--set", f"preprocess.phone_extractor={extractor}")
    done = run_sh(*flags, folder=tmp_path, hidden=hidden)
    assert (done.returncode, done.stderr) == (0, "")
    assert "normalized: Hi" in done.stdout


def test_an_environment_without_the_project_is_named(tmp_path: Path) -> None:
    """In a copy of the repository, which may have a .venv."""
    script = tmp_path / "egs" / "tts" / "VALLE" / "run.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(RUN_SH, script)
    done = run_sh("--stage", "1", folder=tmp_path, hidden=("json5",), script=script)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the active environment has no json5" in done.stderr and "make install" in done.stderr

    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$0"\n')
    python.chmod(0o755)
    done = run_sh("--stage", "1", folder=tmp_path, hidden=("json5",), script=script)
    assert (done.returncode, done.stdout.strip()) == (0, str(python))
    assert done.stderr == f"run.sh: using {tmp_path}/.venv, as the active environment has no json5\n"
