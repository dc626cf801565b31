"""Voices are told apart by the distances of their embeddings."""

import numpy as np
import pytest

from recordings import speakers
from recordings.speakers import cluster, voices_of
from recordings.voice import Region


def embeddings(num_voices: int, num_each: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around a centre for each voice, in random order, and the voice of each."""
    rng = np.random.default_rng(seed)
    centres = np.abs(rng.standard_normal((num_voices, 256)))
    centres -= centres.mean(0)
    truth = rng.permutation(np.repeat(np.arange(num_voices), num_each))
    found = centres[truth] + spread * rng.standard_normal((len(truth), 256))
    return found / np.linalg.norm(found, axis=1, keepdims=True), truth


def same_groups(labels: list[int], truth: np.ndarray) -> bool:
    return len(set(zip(labels, truth.tolist(), strict=True))) == len(set(labels)) == len(set(truth.tolist()))


def test_voices_become_speakers_in_the_order_they_appear() -> None:
    found, truth = embeddings(8, 10, spread=0.2)
    labels = cluster(found, 0.3)
    assert same_groups(labels, truth)
    assert list(dict.fromkeys(labels)) == list(range(8))


def test_many_voices_are_clustered_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speakers, "_MAX_CLUSTERED", 20)
    found, truth = embeddings(5, 20, spread=0.2)
    assert same_groups(cluster(found, 0.3), truth)
    # Where nothing can be joined, it ends as well.
    apart, _ = embeddings(50, 1, spread=0.0)
    assert len(set(cluster(apart, 0.01))) == 50


def test_short_speech_gets_the_nearest_voice_and_makes_none() -> None:
    (anna, ben, odd), _ = embeddings(3, 1, spread=0.0)
    # Of short speech the embedding is not reliable.
    found = {0.0: anna, 2.2: ben + 0.9 * odd, 3.0: ben, 5.5: anna + 0.9 * odd}
    regions = [Region(0, 2), Region(2.2, 2.6), Region(3, 5), Region(5.5, 5.9)]
    voices, means = voices_of(regions, lambda region: found[region.start], 0.28)
    assert voices == [0, 1, 1, 0] and means == pytest.approx(np.stack([anna, ben]))
    # Speech that is short throughout is told apart nevertheless.
    assert voices_of(regions[1::2], lambda region: found[region.start], 0.28)[0] == [0, 1]


def test_without_speech_there_are_no_voices() -> None:
    voices, means = voices_of([], lambda _: np.ones(2), 0.28)
    assert voices == [] and len(means) == 0 and cluster(np.zeros((0, 2)), 0.28) == []
