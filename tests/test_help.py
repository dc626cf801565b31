"""`run.sh --help` lists every flag, and no other."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import bins.build_corpus
import bins.evaluate
import bins.inference
import bins.preprocess
import bins.train
import bins.webui
from tests.conftest import ROOT
from tests.support.recipe import Program

RUN_SH = ROOT / "egs" / "tts" / "VALLE" / "run.sh"
OWN_FLAGS = {"--stage", "-s", "--gpu"}
COMMON = -1
FLAG = re.compile(r"(?<![\w-])--?[a-z]\w*")
PROGRAMS: dict[int, Program] = {
    0: bins.build_corpus,
    1: bins.preprocess,
    2: bins.train,
    3: bins.inference,
    4: bins.evaluate,
    5: bins.webui,
}


@pytest.fixture(scope="module")
def sections() -> dict[int, str]:
    """The help text by stage, and that for all stages."""
    text = subprocess.run(["sh", str(RUN_SH), "--help"], capture_output=True, text=True, check=True).stdout
    common, *parts = re.split(r"^Stage (\d),", text, flags=re.MULTILINE)
    return {COMMON: common} | {int(stage): part for stage, part in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize("stage", PROGRAMS)
def test_the_help_has_the_flags_of_each_program(
    sections: dict[int, str], stage: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        PROGRAMS[stage].main(["--help"])
    assert ended.value.code == 0
    known = set(FLAG.findall(capsys.readouterr().out))
    assert sections.keys() == {COMMON, *PROGRAMS}
    listed = {flag for section in (sections[COMMON], sections[stage]) for flag in FLAG.findall(section)}
    assert listed - OWN_FLAGS == known
    assert listed >= OWN_FLAGS


@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize("flags", [["--help"], ["-h"], ["--stage", "2", "--name", "x", "--help"]])
def test_the_help_needs_no_python(shell: str, flags: list[str], tmp_path: Path) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    for tool in ("cat", "dirname"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    done = subprocess.run(
        [found, str(RUN_SH), *flags],
        env={**environment, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: sh egs/tts/VALLE/run.sh")
