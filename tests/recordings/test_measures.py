"""What is measured of a segment, and which segments are copies of others."""

import numpy as np
import pytest
import torch
from torchaudio.functional import resample

from recordings.measures import characters_per_second, find_duplicates, fingerprint


def syllables(seed: int, seconds: float, rate_hz: int = 24000) -> np.ndarray:
    """Bursts of two tones each, as different as speech is."""
    rng = np.random.default_rng(seed)
    pieces = []
    for _ in range(round(seconds * 6)):
        time = np.arange(rate_hz // 6) / rate_hz
        low, high = rng.uniform(150, 600), rng.uniform(800, 3500)
        burst = np.sin(2 * np.pi * low * time) + 0.5 * np.sin(2 * np.pi * high * time)
        pieces.append(rng.uniform(0.05, 0.3) * burst * np.hanning(len(time)))
    return np.concatenate(pieces).astype(np.float32)


def cosine(some: np.ndarray, other: np.ndarray) -> float:
    a, b = some.astype(float), other.astype(float)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_fingerprint_is_that_of_a_copy_and_of_nothing_else() -> None:
    original = syllables(0, 4)
    noisy = 0.3 * original + 0.001 * np.random.default_rng(1).standard_normal(len(original)).astype(np.float32)
    shifted = np.pad(original, (480, 0))
    at_16_khz = resample(torch.from_numpy(original), 24000, 16000).numpy()
    own = fingerprint(original, 24000)
    for copy, rate_hz in ((noisy, 24000), (shifted, 24000), (at_16_khz, 16000)):
        assert cosine(own, fingerprint(copy, rate_hz)) > 0.95
    assert all(cosine(own, fingerprint(syllables(seed, 4), 24000)) < 0.7 for seed in range(1, 20))


@pytest.mark.parametrize("block", [2, 1024])
def test_the_first_of_several_copies_stays(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recordings.measures._BLOCK", block)
    seeds, seconds = [3, 1, 2, 1, 3, 1], [3, 4, 4, 4, 3, 4]
    prints = np.stack([fingerprint(syllables(*pair), 24000) for pair in zip(seeds, seconds, strict=True)])
    assert find_duplicates(prints, seconds, 0.95) == {3: 1, 4: 0, 5: 1}
    # Copies are equally long.
    assert find_duplicates(prints, [3, 4, 4, 5, 3, 4], 0.95) == {4: 0, 5: 1}
    assert find_duplicates(prints[:0], [], 0.95) == {}


def test_punctuation_takes_no_time() -> None:
    assert characters_per_second("Well, it's 20 – no?", 2) == pytest.approx(11 / 2)
    assert characters_per_second("今天天气很好。", 2) == 3
