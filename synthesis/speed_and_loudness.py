"""The speed and the loudness of speech, which are changed after it is decoded."""

import numpy as np
import torch
from torch import Tensor

from utils.log import log

# WSOLA of windows that hold two periods of a low voice, shifted by up to one of them either way.
_WINDOW_SECONDS, _SHIFT_SECONDS = 0.03, 0.0125
# A gating block of ITU-R BS.1770, the shortest sound whose loudness it defines.
_BLOCK_SECONDS = 0.4
_FEWEST_SAMPLES = 16


def change_speed(audio: Tensor, sample_rate_hz: int, speed: float) -> Tensor:
    """Audio (N,) as round(N / speed) samples of the same pitch.

    By WSOLA, which moves short pieces of the waveform: of the usual methods it suits a single voice best, as it does
    not smear onsets, and it gives no sample that is louder than those of the audio.
    """
    num_samples = round(len(audio) / speed)
    if speed == 1:
        return audio
    if min(len(audio), num_samples) < _FEWEST_SAMPLES:
        # Too short for any pitch.
        index = torch.linspace(0, max(0, len(audio) - 1), num_samples).round().long()
        return audio[index] if len(audio) else audio
    # Imported here, as it takes a while and is needed for other speeds than 1 alone.
    from libtsm import wsola_tsm

    half_window, shift = (round(seconds * sample_rate_hz) for seconds in (_WINDOW_SECONDS / 2, _SHIFT_SECONDS))
    changed = wsola_tsm(audio.numpy().astype(np.float64), 1 / speed, half_window, 2 * half_window, tol=shift)
    # It rounds the length up.
    return torch.from_numpy(changed[:num_samples, 0]).to(audio.dtype)


def change_loudness(audio: Tensor, sample_rate_hz: int, lufs: float) -> Tensor:
    """Audio (N,) with an integrated loudness of `lufs` (ITU-R BS.1770), or as near to it as it comes without clipping.

    Of audio below 0.4 s the loudness is that of the whole. Silence is not changed.
    """
    if not audio.any():
        return audio
    from pyloudnorm import Meter

    block_seconds = min(_BLOCK_SECONDS, len(audio) / sample_rate_hz)
    measured = Meter(sample_rate_hz, block_size=block_seconds).integrated_loudness(audio.numpy().astype(np.float64))
    if not np.isfinite(measured):
        return audio
    gain, highest_gain = 10 ** ((lufs - measured) / 20), 1 / float(audio.abs().max())
    if gain > highest_gain:
        reached = lufs + 20 * np.log10(highest_gain / gain)
        log.warning("infer.loudness_lufs: %g LUFS would clip, so the speech has %.1f LUFS", lufs, reached)
    return audio * min(gain, highest_gain)
