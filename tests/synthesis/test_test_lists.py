"""Test lists in all supported forms, and the actual fault of a line that has none of them."""

from pathlib import Path

import pytest

from synthesis.test_lists import InvalidLine, ListItem, read_test_list
from utils.cli import find_path
from utils.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a list, which is not the working directory."""
    (tmp_path / "wavs").mkdir()
    for name in ("a", "b", "reference"):
        (tmp_path / "wavs" / f"{name}.wav").touch()
    return tmp_path


def read(folder: Path, *lines: str) -> list[ListItem | InvalidLine]:
    path = folder / "list.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_test_list(path, lambda name: find_path(name, "audio_prompt", folder))


def fields(item: ListItem | InvalidLine) -> tuple:
    assert isinstance(item, ListItem), item
    reference = item.reference_audio and item.reference_audio.name
    return item.name, item.text, item.prompt_text, item.prompt_audio.name, reference


@pytest.mark.parametrize(
    ("line", "name", "reference"),
    [
        ("say this|as said|wavs/a.wav", "batch/1_a", None),
        ("as said|wavs/a.wav|say this", "batch/1_a", None),
        ("say this|as said|wavs/a.wav|", "batch/1_a", None),
        ("utt-7|as said|wavs/a.wav|say this", "batch/utt-7", None),
        ("say this|as said|wavs/a.wav|wavs/reference.wav", "batch/1_a", "reference.wav"),
        ("as said|wavs/a.wav|say this|wavs/reference.wav", "batch/1_a", "reference.wav"),
        ("utt-7|as said|wavs/a.wav|say this|wavs/reference.wav", "batch/utt-7", "reference.wav"),
    ],
)
def test_every_form_is_recognized_by_its_audio(folder, line, name, reference) -> None:
    [item] = read(folder, line)
    assert fields(item) == (name, "say this", "as said", "a.wav", reference)


def test_paths_start_at_the_working_directory_then_the_list_then_the_root(folder, monkeypatch, tmp_path) -> None:
    caller = tmp_path / "caller"
    (caller / "wavs").mkdir(parents=True)
    (caller / "wavs" / "b.wav").touch()
    monkeypatch.chdir(caller)
    items = read(folder, "x|y|wavs/a.wav", "x|y|wavs/b.wav", "x|y|README.md")
    parents = [item.prompt_audio.parent for item in items if isinstance(item, ListItem)]
    assert parents == [folder / "wavs", caller / "wavs", Path(__file__).parents[2]]


@pytest.mark.parametrize(
    "form", ["as said|wavs/a.wav|{}", "u|as said|wavs/a.wav|{}", "as said|wavs/a.wav|{}|wavs/b.wav"]
)
def test_a_text_at_the_end_may_hold_bars(folder: Path, form: str) -> None:
    [item] = read(folder, form.format("either|or|both"))
    assert isinstance(item, ListItem) and (item.text, item.prompt_text) == ("either|or|both", "as said")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("either|or|as said|wavs/a.wav", r"4 fields, 3 of them before .* \| in a text divides it"),
        ("say|said|wavs/gone.wav", "no such file or folder: wavs/gone.wav"),
        ("id|said|wavs/gone.wav|say", "no such file or folder: wavs/gone.wav"),
        ("say|said|wavs/a.wav|wavs/gone.wav", "no such file or folder: wavs/gone.wav"),
        ("said|wavs/gone.wav|say this", "no such file or folder: wavs/gone.wav"),
        ("say|said|wavs/a.wav|references/0001", "no such file or folder: references/0001"),
        ("say|said|wavs", "field 3: wavs: a folder, not a file"),
        ("say|wavs/a.wav", "2 fields, and needs three or more"),
    ],
)
def test_the_actual_fault_of_a_line_is_named(folder: Path, line: str, words: str) -> None:
    bad, good = read(folder, line, "x|y|wavs/a.wav")
    assert isinstance(bad, InvalidLine) and isinstance(good, ListItem)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(bad.reason)
    assert bad.reason.startswith("line 1: ")


def test_names_are_safe_and_unique(folder: Path) -> None:
    lines = [
        f"{id_}|said|wavs/a.wav|text {number}" for number, id_ in enumerate(["x", "x", "../../etc", "", "n" * 300])
    ]
    names = [item.name for item in read(folder, *lines)]
    assert names[:4] == ["batch/x", "batch/x__2", "batch/____etc", "batch/4_a"]
    assert len(set(names)) == len(names) and all(len(name) < 220 and ".." not in name for name in names)


def test_a_list_without_lines_is_an_error(folder: Path) -> None:
    with pytest.raises(UserError, match="no lines; each is"):
        read(folder, "# nothing", "")
