"""What a package that is built from the repository has."""

from pathlib import Path

import pytest

from tests.conftest import ROOT

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = pytest.importorskip("tomli")

TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


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
