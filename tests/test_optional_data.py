"""Tests that need recordings or golden numbers find them through VALLET_TEST_DATA alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, find_test_data

PHONES = "tests/processors/test_text.py::test_phones_and_ids_are_those_of_the_reference"


def run_pytest(data: str | None) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name != "VALLET_TEST_DATA"}
    if data is not None:
        environment["VALLET_TEST_DATA"] = data
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", PHONES]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_without_the_variable_they_are_skipped_with_the_reason() -> None:
    """Whatever lies beside the clone."""
    status, output = run_pytest(None)
    assert status == 0 and "1 skipped" in output and "VALLET_TEST_DATA" in output
    assert find_test_data("") == find_test_data(None) == Path(os.devnull)


def test_with_the_variable_they_run_on_what_it_names(tmp_path: Path) -> None:
    golden = tmp_path / "golden" / "text"
    golden.mkdir(parents=True)
    (golden / "symbols.dict").write_text("a 0\n")
    (golden / "phones.jsonl").write_text('{"text": "a", "phones": ["not these"], "ids": []}\n')
    status, output = run_pytest(str(tmp_path))
    assert status == 1 and "1 failed" in output and "not these" in output


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_variable_that_names_no_folder_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(pytest.UsageError, match="VALLET_TEST_DATA: no folder"):
        find_test_data(str(tmp_path / name))
