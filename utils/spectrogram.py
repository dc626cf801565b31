"""Spectrograms for pictures."""

import numpy as np

# A picture shows this much below its loudest point.
_DYNAMIC_RANGE_DB = 80.0
_WINDOW_SECONDS = 0.04


def spectrogram(samples: np.ndarray, sample_rate_hz: int, num_columns: int, num_mels: int | None = None) -> np.ndarray:
    """Levels (F, num_columns) of (N,) samples: 1 is the loudest, 0 is 80 dB or more below it.

    Row 0 has the lowest frequency. Rows are spaced linearly up to half the sample rate, or are `num_mels` mel bands.
    """
    window = np.hanning(round(_WINDOW_SECONDS * sample_rate_hz))
    padded = np.pad(samples, len(window) // 2)
    starts = np.linspace(0, max(0, len(padded) - len(window)), num_columns).astype(int)
    # Audio shorter than a window repeats its last sample, which is zero.
    frames = padded[np.minimum(starts[:, None] + np.arange(len(window)), len(padded) - 1)]
    power = np.abs(np.fft.rfft(frames * window, axis=1)).T ** 2
    if num_mels is not None:
        power = _mel_filters(len(power), num_mels, sample_rate_hz) @ power
    decibels = 10 * np.log10(np.maximum(power / max(power.max(), 1e-10), 1e-10))
    return np.maximum(1 + decibels / _DYNAMIC_RANGE_DB, 0)


def _mel_filters(num_frequencies: int, num_mels: int, sample_rate_hz: int) -> np.ndarray:
    """(num_mels, num_frequencies) triangular filters of equal area."""
    # Slow to import, and most programs draw no mel bands.
    from torchaudio.functional import melscale_fbanks

    filters = melscale_fbanks(
        num_frequencies, 0.0, sample_rate_hz / 2, num_mels, sample_rate_hz, norm="slaney", mel_scale="slaney"
    )
    return filters.T.numpy()
