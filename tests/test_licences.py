"""The table of licences in the README: every dependency is in it, with the licence that its package states."""

import re
from importlib.metadata import PackageNotFoundError, metadata

import pytest

from tests.conftest import ROOT
from tests.test_package import PROJECT

# What the metadata of a package says, and how the table writes it.
FAMILIES = {
    r"lesser|lgpl": "LGPL",
    r"gnu general|(?<!l)gpl": "GPL",
    r"noncommercial": "CC BY-NC 4.0",
    r"mpl|mozilla": "MPL",
    r"\bmit\b": "MIT",
    r"bsd": "BSD",
    r"apache": "Apache-2.0",
    r"\bisc\b": "ISC",
    r"python software foundation": "PSF",
}
EXTRAS = {name: names for name, names in PROJECT["optional-dependencies"].items() if name != "dev"}


def distribution(requirement: str) -> str:
    return re.split(r"[\[<>=~! ]", requirement)[0]


NAMES = sorted(
    {distribution(name) for names in (PROJECT["dependencies"], *EXTRAS.values()) for name in names} - {"vallet"}
)


@pytest.fixture(scope="module")
def table() -> dict[str, str]:
    """The licence of each package and of all weights."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Licences\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in section.splitlines() if line.startswith("| ")]
    return {re.sub(r"\(.*?(\)|$)", "", name).strip(): licence for names, licence in rows for name in names.split(", ")}


@pytest.mark.parametrize("name", NAMES)
def test_the_licence_of_every_dependency_is_that_of_its_package(name: str, table: dict[str, str]) -> None:
    assert name in table
    try:
        found = metadata(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    stated = [found.get("License-Expression") or "", (found.get("License") or "")[:60]]
    stated += [line for line in found.get_all("Classifier") or [] if line.startswith("License")]
    families = {family for pattern, family in FAMILIES.items() if re.search(pattern, " ".join(stated).lower())}
    if not families and name == "espeakng-loader":
        pytest.skip("the package states none")
    # The additions of numpy's wheel are as free as its own licence.
    assert {family for family in families if family not in table[name]} <= ({"MIT"} if name == "numpy" else set())
    assert families


def test_the_weights_in_the_repository_have_a_licence(table: dict[str, str]) -> None:
    assert table["weights of the pretrained pair and its codec"] == "MIT"
    card = (ROOT / "egs" / "tts" / "VALLE" / "pretrained" / "README.md").read_text(encoding="utf-8")
    [paragraph] = [part for part in card.split("\n\n") if part.startswith("The licence of the weights")]
    assert all(name in paragraph for name in ("MIT", "CC BY 4.0", "CSTR, University of Edinburgh", "LibriTTS"))
