"""Metrics without a model: cepstral distance, pitch, word errors, intervals."""

import numpy as np
import pytest

from benchmarks.synthetic_corpus import VOICES
from evaluation.cepstra import align, mel_cepstra, trim
from evaluation.measures import Ratio, character_errors, interval, word_errors
from evaluation.normalizers import build_normalizer
from evaluation.pitch import correlation, log_pitch
from processors.espeak_speech import render

RATE_HZ = 24000
TEXTS = ("The happy farmer painted your yellow boat.", "There were seven ships near the castle in July.")


def features(audio: np.ndarray) -> np.ndarray:
    return mel_cepstra(trim(audio), RATE_HZ)


@pytest.fixture(scope="module")
def renderings() -> dict[tuple[int, int], np.ndarray]:
    """Cepstra by text and voice."""
    return {(text, voice): features(render(TEXTS[text], VOICES[voice])) for text in (0, 1) for voice in (0, 1)}


def test_the_distance_grows_with_another_text_or_voice_and_more_with_both(renderings) -> None:
    same, other_text, other_voice, neither = (
        align(renderings[0, 0], renderings[key])[0] for key in ((0, 0), (1, 0), (0, 1), (1, 1))
    )
    assert same < 1e-6
    assert min(other_text, other_voice) > 1 and max(other_text, other_voice) < neither


def test_timing_does_not_change_the_distance_and_the_path_follows_it(renderings) -> None:
    slow = np.repeat(renderings[0, 0], 2, axis=0)
    distance, path = align(slow, renderings[0, 0])
    assert distance < 1e-6
    assert (path[0] == 0).all() and tuple(path[-1]) == (len(slow) - 1, len(renderings[0, 0]) - 1)
    assert abs(path[:, 0] - 2 * path[:, 1]).max() <= 3


def test_a_tilt_is_its_decibels_and_loudness_is_none() -> None:
    """One coefficient c is 10 / ln 10 * sqrt(2) * c decibels; the energy coefficient is left out."""
    flat, tilted = np.zeros((5, 13)), np.zeros((5, 13))
    tilted[:, 0] = 1
    assert align(flat, tilted)[0] == pytest.approx(10 / np.log(10) * np.sqrt(2))
    noise = np.random.default_rng(0).normal(0, 0.1, RATE_HZ).astype(np.float32)
    assert align(mel_cepstra(noise, RATE_HZ), mel_cepstra(0.1 * noise, RATE_HZ))[0] < 1e-3


def test_the_distance_of_silence_and_a_click_is_finite() -> None:
    silence, click = np.zeros(2400, np.float32), np.eye(1, 2400, 1200, dtype=np.float32)[0]
    assert np.isfinite(align(features(silence), features(click))[0])


def test_pitch_correlates_with_itself_and_against_its_mirror_image() -> None:
    seconds = np.arange(RATE_HZ) / RATE_HZ

    def melody(sign: int) -> np.ndarray:
        pitch_hz = 150 * 2 ** (sign * 0.4 * np.sin(2 * np.pi * seconds))
        phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
        return sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 8)).astype(np.float32)

    rising, falling = log_pitch(melody(1), RATE_HZ), log_pitch(melody(-1), RATE_HZ)
    assert np.nanmedian(abs(rising - np.log(150 * 2 ** (0.4 * np.sin(2 * np.pi * np.arange(101) / 100))))) < 0.03
    path = np.stack([np.arange(101)] * 2, axis=1)
    assert correlation(rising, rising, path) == pytest.approx(1)
    assert correlation(rising, falling, path) < -0.9
    assert correlation(rising, np.full(101, np.nan), path) is None


def test_words_are_normalized_before_they_are_compared() -> None:
    normalize = build_normalizer("en-us")
    same = normalize("Mr. Smith doesn't have twenty-one cats!"), normalize("mister smith does not have 21 cats")
    assert word_errors(*same).total == 0
    assert word_errors("a b c d", "a x c d e") == Ratio(2, 4)
    assert word_errors("a b", "") == Ratio(2, 2) and word_errors("", "a") == Ratio(1, 0)
    assert character_errors(*same).total == 0
    assert build_normalizer("de")("Grüß Gott, Welt!") == "grüß gott welt "


def test_characters_are_counted_with_one_space_between_words() -> None:
    assert character_errors("shop boy", "shopboy") == Ratio(1, 8)
    assert character_errors("abc", "axcd") == Ratio(2, 3)
    assert character_errors(" grüß  gott ", "grüß gott") == Ratio(0, 9)
    assert character_errors("a b", "") == Ratio(3, 3) and character_errors("", "a") == Ratio(1, 0)


def test_the_interval_is_that_of_the_corpus_mean() -> None:
    values = [Ratio(1, 2), Ratio(0, 10), Ratio(3, 8)]
    mean, low, high = interval(values)
    assert mean == pytest.approx(0.2) and low <= mean <= high
    assert interval(values) == (mean, low, high)
    draws = [Ratio(number) for number in np.random.default_rng(0).normal(5, 1, 400)]
    mean, low, high = interval(draws)
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)
