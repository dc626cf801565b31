"""What a package that is built from the repository has."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.conftest import ROOT

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = pytest.importorskip("tomli")

_PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, TOOL = _PYPROJECT["project"], _PYPROJECT["tool"]["setuptools"]


def test_all_packages_are_built() -> None:
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("*/**/__init__.py")}
    found = {name for name in found if name.split(".")[0] not in ("tests", "build") and not name.startswith(".")}
    assert found == set(TOOL["packages"]) - {"egs.tts.VALLE.pretrained"}


@pytest.mark.parametrize("package", [name for name in TOOL["packages"] if "." not in name])
def test_data_beside_the_code_is_built(package: str) -> None:
    given = TOOL["package-data"].get(package, [])
    patterns = [path for pattern in given for path in (ROOT / package).glob(pattern)]
    found = [path for path in (ROOT / package).rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert set(found) == set(patterns)


def test_the_pretrained_pair_is_built(tmp_path: Path) -> None:
    names = ("args.json", "symbols.dict", "speech_rvq.safetensors", "README.md", "voices/anna.safetensors")
    names += ("checkpoint/epoch-0001/model.safetensors", "checkpoint/epoch-0001/meta.json")
    for name in (*names, "recipe/corpus.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = TOOL["package-data"]["egs.tts.VALLE.pretrained"]
    built = {str(path.relative_to(tmp_path)) for pattern in patterns for path in tmp_path.glob(pattern)}
    assert {name for name in built if (tmp_path / name).is_file()} == set(names)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel of the project has, unpacked. The build writes into its source, so it gets a copy."""
    try:
        if int(version("setuptools").split(".")[0]) < 77:
            pytest.skip("needs setuptools 77 or newer")
    except PackageNotFoundError:
        pytest.skip("needs setuptools")
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]):
        shutil.copy(ROOT / name, source)
    for name in {package.split(".")[0] for package in TOOL["packages"]}:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", ".", ".")
    done = subprocess.run([sys.executable, *build], cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [wheel] = source.glob("*.whl")
    ZipFile(wheel).extractall(folder)
    return folder


def run_installed(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_an_installed_package_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    """Without the recipe, whose config is the default in the repository."""
    assert not (installed / "egs" / "tts" / "VALLE" / "exp_config.json").exists()
    done = run_installed(installed, tmp_path, "-c", "import vallet; print(vallet.__file__, vallet.load.__module__)")
    assert (done.returncode, done.stdout.split()) == (0, [str(installed / "vallet" / "__init__.py"), "vallet.tts"])

    done = run_installed(installed, tmp_path, "-m", "bins.preprocess", "--show_text", "Hi 2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "normalized: Hi two" in done.stdout

    done = run_installed(installed, tmp_path, "-m", "bins.preprocess")
    assert done.returncode == 1 and "dataset" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_installed_server_finds_the_pretrained_pair(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    if not (installed / "egs" / "tts" / "VALLE" / "pretrained" / "args.json").is_file():
        pytest.skip("there is no pretrained pair")
    # The voice is looked for after the model and its voices were found.
    done = run_installed(installed, tmp_path, "-m", "bins.serve", "--infer_voice", "nobody")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --infer_voice") and "ada" in done.stderr
