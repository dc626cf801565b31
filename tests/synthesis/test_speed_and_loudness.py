"""Speech that is faster, slower or of another loudness keeps its pitch, and its times stay right."""

import numpy as np
import pyloudnorm
import pytest
import torch
from torch import Tensor

from evaluation.locked_librosa import librosa
from synthesis.parts import Cut, Part, join_part
from synthesis.speed_and_loudness import change_loudness, change_speed
from tests.conftest import Messages
from tests.support.long_texts import TEXT, build_speaker, speak
from utils.log import log
from utils.prompts import Prompt

RATE_HZ = 24000


def vowel(pitch_hz: float, seconds: float) -> Tensor:
    """Harmonics with the formants of an open vowel, a peak of 0.5."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    harmonics = [pitch_hz * number for number in range(1, 40)]
    levels = [np.exp(-(((hz - 700) / 400) ** 2)) + 0.4 * np.exp(-(((hz - 1200) / 300) ** 2)) for hz in harmonics]
    wave = sum(level * np.sin(2 * np.pi * hz * time) for hz, level in zip(harmonics, levels, strict=True))
    return torch.from_numpy(0.5 * wave / np.abs(wave).max()).float()


def pitch_of(audio: Tensor) -> float:
    track = librosa.yin(audio.numpy(), fmin=60, fmax=500, sr=RATE_HZ)
    return float(np.median(track[3:-3]))


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.3, 2.0])
@pytest.mark.parametrize("pitch_hz", [90, 220])
def test_the_pitch_stays_and_the_length_follows(speed: float, pitch_hz: float) -> None:
    audio = vowel(pitch_hz, 1.5)
    changed = change_speed(audio, RATE_HZ, speed)
    assert len(changed) == round(len(audio) / speed) and changed.dtype == audio.dtype
    assert pitch_of(changed) == pytest.approx(pitch_hz, rel=0.02)
    # Nothing fades or clips: both ends and the middle are as loud as before.
    assert changed.abs().max() <= audio.abs().max() + 1e-6
    assert all(piece.abs().max() > 0.3 for piece in changed[480:-480].chunk(10))


def test_a_silence_stays_where_it_was() -> None:
    audio = torch.cat([vowel(120, 0.5), torch.zeros(RATE_HZ // 2), vowel(120, 0.5)])
    changed = change_speed(audio, RATE_HZ, 0.7)
    # In frames of 10 ms.
    silent = np.flatnonzero(changed[: len(changed) // 240 * 240].view(-1, 240).abs().amax(dim=1) < 1e-3)
    assert silent[0] / 100 == pytest.approx(0.5 / 0.7, abs=0.04)
    assert silent[-1] / 100 == pytest.approx(1.0 / 0.7, abs=0.04)


@pytest.mark.parametrize("num_samples", [0, 1, 2, 15, 100, 719, 2000])
@pytest.mark.parametrize("speed", [0.5, 1.0, 1.7, 2.0])
def test_very_short_clips(num_samples: int, speed: float) -> None:
    audio = vowel(200, 1)[:num_samples]
    changed = change_speed(audio, RATE_HZ, speed)
    assert len(changed) == round(num_samples / speed) and changed.isfinite().all()
    louder = change_loudness(audio, RATE_HZ, -20)
    assert len(louder) == num_samples and louder.isfinite().all() and not (louder.abs() > 1).any()


def test_speed_one_is_the_same_audio() -> None:
    audio = vowel(100, 0.3)
    assert change_speed(audio, RATE_HZ, 1.0) is audio


@pytest.mark.parametrize("seconds", [0.3, 0.45, 3.0])
@pytest.mark.parametrize("lufs", [-30.0, -16.0])
def test_loudness(seconds: float, lufs: float) -> None:
    audio = 0.1 * vowel(150, seconds)
    changed = change_loudness(audio, RATE_HZ, lufs)
    meter = pyloudnorm.Meter(RATE_HZ, block_size=min(0.4, seconds))
    assert meter.integrated_loudness(changed.double().numpy()) == pytest.approx(lufs, abs=0.5)
    assert changed.abs().max() < 1


def test_loudness_never_clips_and_leaves_silence() -> None:
    messages = Messages()
    log.addHandler(messages)
    try:
        changed = change_loudness(vowel(150, 1), RATE_HZ, 0.0)
    finally:
        log.removeHandler(messages)
    assert changed.abs().max() == pytest.approx(1) and "0 LUFS would clip, so the speech has -" in messages.texts[0]
    silence = torch.zeros(RATE_HZ)
    assert change_loudness(silence, RATE_HZ, -20) is silence


@pytest.mark.parametrize("speed", [0.5, 0.9, 1.6, 2.0])
@pytest.mark.parametrize("cut", [Cut.SENTENCE, Cut.WORD])
def test_times_of_joined_parts_scale(speed: float, cut: Cut) -> None:
    parts = [Part("a", 0, 1, cut, 0.4 if cut == Cut.SENTENCE else 0.0), Part("b", 2, 1, Cut.SECTION)]
    audio = torch.nn.functional.pad(vowel(120, 0.8), (4000, 4000))

    def times(factor: float) -> list[float]:
        overlap, total, found = torch.zeros(0), 0, []
        for index, part in enumerate(parts):
            scaled = Part(part.text, part.start, 1, part.cut, part.pause_seconds / factor)
            joined, overlap, num_spoken, _ = join_part(
                *(audio, scaled, RATE_HZ, overlap, index == 0, index == 1),
                lambda one: change_speed(one, RATE_HZ, factor),
            )
            found += [total / RATE_HZ, (total + num_spoken) / RATE_HZ]
            total += len(joined)
        return [*found, total / RATE_HZ]

    # The fades of an overlap last as long at any speed.
    assert times(speed) == pytest.approx([time / speed for time in times(1.0)], abs=0.011)


def test_a_long_text_is_faster_with_its_pauses_and_times(codec) -> None:
    prompt = Prompt(0.5 * torch.rand(RATE_HZ) - 0.25, "a dog barks", 1.0)
    said = f"[pause 0.3s] {TEXT}"
    plain, audio, rows = speak(build_speaker(codec), said, prompt)
    fast, fast_audio, fast_rows = speak(build_speaker(codec, speed=1.5), said, prompt)
    assert [part.text for part in fast.parts] == [part.text for part in plain.parts]
    assert fast.guessed_seconds == pytest.approx(plain.guessed_seconds / 1.5)
    # Each overlap of two parts is a fade, which is not scaled.
    slack = 0.01 * len(rows)
    for row, faster in zip(rows, fast_rows, strict=True):
        assert [faster["start"], faster["end"]] == pytest.approx([row["start"] / 1.5, row["end"] / 1.5], abs=slack)
    assert len(fast_audio) == pytest.approx(len(audio) / 1.5, abs=slack * RATE_HZ)
    assert fast.summary(fast_rows)["seconds"] == round(len(fast_audio) / RATE_HZ, 3)


def test_parts_have_the_loudness_of_the_settings(codec) -> None:
    prompt = Prompt(0.5 * torch.rand(RATE_HZ) - 0.25, "a dog barks", 1.0)
    _, audio, rows = speak(build_speaker(codec, loudness_lufs=-30.0), TEXT, prompt)
    assert len(rows) > 5
    for row in rows:
        start, end = round(row["start"] * RATE_HZ), round(row["end"] * RATE_HZ)
        part = audio[start:end].double().numpy()
        assert pyloudnorm.Meter(RATE_HZ).integrated_loudness(part) == pytest.approx(-30, abs=0.5)
