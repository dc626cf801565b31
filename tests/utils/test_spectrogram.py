"""Spectrograms: a tone lies at its frequency, silence is dark, and any length gives the requested number of columns."""

import numpy as np
import pytest

from utils.spectrogram import spectrogram

RATE = 24000


def tone(frequency_hz: float, seconds: float) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def test_a_tone_lies_at_its_frequency() -> None:
    levels = spectrogram(np.concatenate([tone(2000, 0.5), tone(6000, 0.5)]), RATE, 100)
    assert levels.min() >= 0 and levels.max() == 1
    frequencies = np.linspace(0, RATE / 2, len(levels))
    assert frequencies[levels[:, 20].argmax()] == pytest.approx(2000, abs=30)
    assert frequencies[levels[:, 80].argmax()] == pytest.approx(6000, abs=30)


def test_mel_bands_rise_with_frequency() -> None:
    frequencies_hz = (200, 500, 1000, 2000, 4000, 8000)
    bands = [spectrogram(tone(hz, 0.5), RATE, 50, num_mels=80)[:, 25].argmax() for hz in frequencies_hz]
    assert bands == sorted(set(bands))
    # Mel bands are narrower at low frequencies, so 4 of 12 kHz lie above the middle band.
    assert bands[4] > 40


@pytest.mark.parametrize("num_samples", [1, 40, 960, RATE])
@pytest.mark.parametrize("num_mels", [None, 80])
def test_silence_is_zero_at_any_length(num_samples: int, num_mels: int | None) -> None:
    levels = spectrogram(np.zeros(num_samples, np.float32), RATE, 10, num_mels)
    assert levels.shape == (num_mels or 481, 10) and not levels.any()
