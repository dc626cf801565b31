"""Texts and prompts that the page accepts, and its messages for those that it does not."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.errors import UserError
from web.prompts import check_prompt, check_text, read_prompt

RATE = 16000


def noise(path: Path, seconds: float, level: float = 0.1, rate: int = RATE) -> Path:
    samples = level * np.random.default_rng(0).uniform(-1, 1, round(seconds * rate))
    soundfile.write(path, samples, rate)
    return path


def test_texts_are_stripped_and_limited() -> None:
    assert check_text(" a dog\n", "the text", 5) == "a dog"
    for text, words in (
        ("", "the text is empty"),
        (" \n", "the text is empty"),
        ("a" * 6, "6 characters; the limit is 5"),
    ):
        with pytest.raises(UserError, match=words):
            check_text(text, "the text", 5)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_prompts_of_any_format_are_read(tmp_path: Path, suffix: str) -> None:
    path = noise(tmp_path / f"prompt.{suffix}", 1.5)
    prompt = read_prompt(check_prompt(str(path)), "a dog", 24000)
    assert prompt.seconds == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize(
    ("seconds", "level", "words"),
    [
        (0.4, 0.1, "has 0.\\d+ s of sound; at least 0.5 s"),
        (16, 0.1, "has 16 s, and no pause"),
        (1, 1e-4, "the prompt is silent"),
    ],
)
def test_unusable_prompts_are_errors(tmp_path: Path, seconds: float, level: float, words: str) -> None:
    path = noise(tmp_path / "prompt.wav", seconds, level)
    with pytest.raises(UserError, match=words):
        read_prompt(path, "a dog", 24000)


def test_a_file_that_is_not_audio_is_named_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "note.wav").write_text("This is not audio.")
    (tmp_path / "empty.wav").touch()
    for name in ("note.wav", "empty.wav", "gone.wav"):
        for check in (lambda path: check_prompt(str(path)), lambda path: read_prompt(path, "a dog", 24000)):
            with pytest.raises(UserError) as raised:
                check(tmp_path / name)
            assert str(raised.value).startswith(f"{name}: ")
    for nothing in (None, ""):
        with pytest.raises(UserError, match="there is no prompt; upload or record"):
            check_prompt(nothing)
