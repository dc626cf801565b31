"""Mel-cepstral distance of two recordings of a text, in decibels, after time alignment."""

from functools import cache

import numpy as np

from evaluation.locked_librosa import librosa

HOP_SECONDS = 0.01
_WINDOW_SECONDS = 0.04
_NUM_MELS = 40
_NUM_CEPSTRA = 13
# Levels further below the peak are clipped: there one recording has noise and another exact silence.
_FLOOR_DB = 40


def trim(audio: np.ndarray) -> np.ndarray:
    """Remove silence from both ends of (N,) audio."""
    return librosa.effects.trim(audio, top_db=_FLOOR_DB - 5)[0]


def mel_cepstra(audio: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Mel cepstra (F, 13) of (N,) audio every 10 ms, without the energy coefficient.

    The coefficients c satisfy log|H(w)| = sum of c[m] cos(m w), so that the distance of two frames in decibels is the
    mel-cepstral distortion, 10 / ln 10 * sqrt(2 * sum of squares).
    """
    size = round(_WINDOW_SECONDS * sample_rate_hz)
    spectrum = np.abs(librosa.stft(audio, n_fft=size, hop_length=round(HOP_SECONDS * sample_rate_hz)))
    magnitude = _filters(sample_rate_hz, size) @ spectrum
    floor = max(float(magnitude.max(initial=0)) * 10 ** (-_FLOOR_DB / 20), 1e-10)
    return 2 / _NUM_MELS * (_cosines() @ np.log(np.maximum(magnitude, floor))).T


@cache
def _filters(sample_rate_hz: int, size: int) -> np.ndarray:
    return librosa.filters.mel(sr=sample_rate_hz, n_fft=size, n_mels=_NUM_MELS)


@cache
def _cosines() -> np.ndarray:
    return np.cos(np.pi / _NUM_MELS * np.outer(np.arange(1, _NUM_CEPSTRA + 1), np.arange(_NUM_MELS) + 0.5))


def align(a: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray]:
    """Align cepstra (F, 13) and (G, 13) by dynamic time warping.

    Returns the mean distance along the best path in decibels, and the path: (P, 2) pairs of frames in order of time.
    """
    squares = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
    distances = 10 / np.log(10) * np.sqrt(2 * squares)
    _, path = librosa.sequence.dtw(C=distances)
    return float(distances[path[:, 0], path[:, 1]].mean()), path[::-1]
