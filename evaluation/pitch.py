"""Pitch, and the correlation of two recordings' pitch."""

import numpy as np

from evaluation.cepstra import HOP_SECONDS
from evaluation.locked_librosa import librosa

_LOWEST_HZ, _HIGHEST_HZ = 60, 500
# With fewer voiced frames a correlation means nothing.
_MIN_FRAMES = 10


def log_pitch(audio: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Natural logarithm (F,) of the pitch every 10 ms, by pYIN; NaN in unvoiced frames."""
    pitch, _, _ = librosa.pyin(
        audio,
        sr=sample_rate_hz,
        fmin=_LOWEST_HZ,
        fmax=_HIGHEST_HZ,
        frame_length=round(0.064 * sample_rate_hz),
        hop_length=round(HOP_SECONDS * sample_rate_hz),
        # A fifth of a semitone: ten times coarser than the default, and ten times faster.
        resolution=0.2,
    )
    return np.log(pitch)


def correlation(a: np.ndarray, b: np.ndarray, path: np.ndarray) -> float | None:
    """Pearson correlation of log pitch (F,) and (G,) along a path (P, 2), over frames that are voiced in both.

    None if there are too few of them, or one pitch is constant.
    """
    pairs = np.stack([a[path[:, 0]], b[path[:, 1]]])
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    if pairs.shape[1] < _MIN_FRAMES or not pairs.std(1).all():
        return None
    return float(np.corrcoef(pairs)[0, 1])
