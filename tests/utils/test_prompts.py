"""Prompts: what is trimmed, cut and refused."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from utils.errors import UserError
from utils.prompts import is_silent, prepare_prompt

RATE = 24000
SENTENCES = (
    "The river runs past the old mill.",
    "Nobody lives there now, and the wheel is still.",
    "Birds nest in it.",
)


def voice(seconds: float, level: float = 0.2, seed: int = 0) -> np.ndarray:
    """A voiced sound whose loudness changes like that of syllables."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 120 * harmonic * time) / harmonic for harmonic in range(1, 8))
    return level * tone * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time + seed)) / 2


def silence(seconds: float, level: float = 1e-5) -> np.ndarray:
    return level * np.random.default_rng(0).standard_normal(round(seconds * RATE))


def write(path: Path, *parts: np.ndarray, rate: int = RATE) -> Path:
    soundfile.write(path, np.concatenate(parts), rate, subtype="FLOAT")
    return path


@pytest.mark.parametrize(("front", "behind", "noise"), [(1.0, 2.0, 1e-5), (0.5, 0.3, 2e-3), (0.0, 0.0, 1e-5)])
def test_silence_around_a_prompt_is_trimmed(tmp_path: Path, front: float, behind: float, noise: float) -> None:
    parts = silence(front, noise), voice(2.0) + silence(2.0, noise), silence(behind, noise)
    prompt = prepare_prompt(write(tmp_path / "prompt.wav", *parts), "a text", RATE)
    margins = min(front, 0.05) + min(behind, 0.1)
    assert prompt.seconds == pytest.approx(2.0 + margins, abs=0.04)
    assert prompt.trimmed_seconds == pytest.approx((max(0, front - 0.05), max(0, behind - 0.1)), abs=0.04)
    assert prompt.text == "a text" and not prompt.warnings
    # The rest of the recording is unchanged.
    start = round(prompt.trimmed_seconds[0] * RATE)
    whole = torch.from_numpy(np.concatenate(parts)).float()
    assert torch.equal(prompt.audio, whole[start : start + len(prompt.audio)])


def test_a_trimmed_prompt_is_unchanged(tmp_path: Path) -> None:
    once = prepare_prompt(write(tmp_path / "a.wav", silence(1), voice(2), silence(1)), "a text", RATE)
    twice = prepare_prompt(write(tmp_path / "b.wav", once.audio.numpy()), "a text", RATE)
    assert len(twice.audio) == pytest.approx(len(once.audio), abs=0.02 * RATE)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([silence(3)], "the prompt is silent"),
        ([silence(1), voice(0.01), silence(1)], "silent|of sound; at least 0.5 s"),
        ([silence(1), voice(0.3), silence(1)], r"0\.\d+ s of sound; at least 0.5 s"),
        ([voice(0.3)], "s of sound; at least 0.5 s"),
        ([voice(20)], "has 20 s, and no pause in its first 15 s"),
        ([voice(121)], "more than 120 s"),
        ([voice(2, level=1e-4)], "the prompt is silent"),
    ],
    ids=["silence", "a click", "a syllable", "a syllable alone", "no pause", "minutes", "a muted microphone"],
)
def test_unusable_prompts_are_refused(tmp_path: Path, parts: list[np.ndarray], words: str) -> None:
    with pytest.raises(UserError, match=words):
        prepare_prompt(write(tmp_path / "prompt.wav", *parts), " ".join(SENTENCES), RATE)


def test_a_long_prompt_ends_at_a_pause_where_a_clause_ends(tmp_path: Path) -> None:
    # Each letter takes equally long in every sentence.
    parts = [part for text in SENTENCES for part in (voice(0.25 * sum(map(str.isalpha, text))), silence(0.4))]
    prompt = prepare_prompt(write(tmp_path / "prompt.wav", *parts), " ".join(SENTENCES), RATE)
    assert prompt.text == SENTENCES[0]
    assert prompt.seconds == pytest.approx(len(parts[0]) / RATE + 0.1, abs=0.05)
    assert prompt.cut_seconds > 10
    with pytest.raises(UserError, match="falls on the end of a clause"):
        prepare_prompt(tmp_path / "prompt.wav", "One word after another without any stop. End", RATE)


def test_a_continuation_needs_the_whole_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "prompt.wav", voice(20), silence(1))
    prompt = prepare_prompt(path, "a text", RATE, may_be_long=True)
    assert prompt.seconds == pytest.approx(20.1, abs=0.05) and not prompt.cut_seconds


def test_clipping_is_a_warning(tmp_path: Path) -> None:
    prompt = prepare_prompt(write(tmp_path / "loud.wav", np.clip(voice(2, level=3), -1, 1)), "a text", RATE)
    assert "clipped" in prompt.warnings[0] and prompt.to_row()["warnings"] == list(prompt.warnings)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_other_rates_and_channels_become_mono_at_the_codecs_rate(tmp_path: Path, rate: int) -> None:
    stereo = np.stack([voice(2), voice(2)], axis=1)
    soundfile.write(tmp_path / "prompt.flac", stereo, rate)
    prompt = prepare_prompt(tmp_path / "prompt.flac", "a text", RATE)
    assert prompt.audio.ndim == 1
    assert prompt.seconds == pytest.approx(2 * RATE / rate, abs=0.05)


def test_silence_is_distinguished_from_speech() -> None:
    assert is_silent(torch.zeros(0), RATE) and is_silent(torch.from_numpy(silence(1)), RATE)
    assert not is_silent(torch.from_numpy(np.concatenate([silence(1), voice(0.2, level=0.05)])), RATE)
