"""The reading path of the README has files of the length that it says."""

import re

import pytest

from utils.paths import ROOT


def num_lines(pattern: str) -> int:
    return sum(len(path.read_text().splitlines()) for path in ROOT.glob(pattern))


def test_the_lines_of_the_reading_path_are_those_of_its_files() -> None:
    section = (ROOT / "README.md").read_text().split("\n## Reading path\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| \d+ \| `(\S+)` \| (\d+) \|", section, re.MULTILINE)
    found = {name: num_lines(name) for name, _ in rows}
    assert {name: pytest.approx(int(lines), rel=0.1) for name, lines in rows} == found
    [(num_files, total)] = re.findall(r"The core is (\d+) files with about ([\d,]+) lines", section)
    assert int(num_files) == len(rows)
    assert int(total.replace(",", "")) == pytest.approx(sum(found.values()), rel=0.1)
    [modules] = re.findall(r"`modules/`, (\d+) lines", section)
    assert int(modules) == pytest.approx(num_lines("modules/*.py"), rel=0.1)
