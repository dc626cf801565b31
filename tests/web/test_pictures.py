"""The picture shows what the speech holds, however short it is."""

import numpy as np
import pytest
import torch

from web.pictures import draw_speech, envelope, ticks

RATE = 24000


@pytest.mark.parametrize("num_samples", [1, 40, 960, 10 * RATE])
def test_any_length_is_drawn_at_one_size(num_samples: int) -> None:
    drawn = draw_speech(torch.rand(num_samples) - 0.5, RATE)
    assert drawn.size == draw_speech(torch.zeros(RATE), RATE).size
    assert np.asarray(drawn).std() > 20


def test_the_waveform_has_its_extremes_and_stays_within_the_picture() -> None:
    samples = np.zeros(1000, np.float32)
    samples[505], samples[995] = -0.5, 0.25
    columns = envelope(samples, 100)
    assert columns[50].tolist() == [-0.5, 0] and columns[99].tolist() == [0, 0.25]
    assert np.abs(columns).sum() == 0.75
    assert np.abs(envelope(4 * samples, 100)).max() == 1


def test_ticks_are_few_and_round() -> None:
    assert ticks(12, 4) == [0, 5, 10]
    assert ticks(0.84, 8) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    for most in (0.001, 0.04, 3, 29.9, 400):
        assert 1 < len(ticks(most, 8)) <= 9 and ticks(most, 8)[-1] <= most
