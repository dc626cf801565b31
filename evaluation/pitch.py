"""Pitch: how far the melody of one rendering follows that of another."""

import librosa
import numpy as np

from evaluation.cepstra import HOP_SECONDS

_LOWEST_HZ, _HIGHEST_HZ = 60, 500
# Fewer frames have no melody.
_MIN_FRAMES = 10


def log_pitch(audio: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """(F,) natural logarithm of the pitch every 10 ms, by pYIN; NaN where there is no voice."""
    pitch, _, _ = librosa.pyin(
        audio,
        sr=sample_rate_hz,
        fmin=_LOWEST_HZ,
        fmax=_HIGHEST_HZ,
        frame_length=round(0.064 * sample_rate_hz),
        hop_length=round(HOP_SECONDS * sample_rate_hz),
        # Ten times coarser than by default, a semitone's fifth, and as many times faster.
        resolution=0.2,
    )
    return np.log(pitch)


def correlation(a: np.ndarray, b: np.ndarray, path: np.ndarray) -> float | None:
    """Pearson's correlation of log pitch (F,) and (G,) along a path (P, 2) of frames, where both have a voice."""
    pairs = np.stack([a[path[:, 0]], b[path[:, 1]]])
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    if pairs.shape[1] < _MIN_FRAMES or not pairs.std(1).all():
        return None
    return float(np.corrcoef(pairs)[0, 1])
