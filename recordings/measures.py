"""What is measured of a segment: ratio of speech to noise, loudness, rate of the text, and what duplicates share."""

from collections.abc import Sequence

import numpy as np

from recordings.voice import HOP_SECONDS, Listened

# Noise is measured this far around a segment, or farther if there is too little of it, and this far from any speech.
_NOISE_SECONDS = (1.0, 5.0)
_MIN_NOISE_FRAMES, _GUARD_FRAMES = 10, 5
_MAX_SNR_DB = 60.0
# Louder are breaths and clicks, and quieter is the silence of gates and of cuts.
_NOISE_QUANTILE = 0.75
# A fingerprint has the levels of bands up to the highest frequency of a telephone, in equal parts of the segment.
_NUM_BANDS, _NUM_SLOTS = 16, 24
_LOWEST_HZ, _HIGHEST_HZ = 150.0, 3600.0
_WINDOW_SECONDS = 0.032
_RANGE_DB = 40.0
# Duplicates are equally long, but for where their edges were found.
_EDGE_SECONDS = 0.1
_BLOCK = 1024


def snr_db(listened: Listened, start: float, end: float) -> float:
    """The level of the speech from `start` to `end` above that of the noise around and inside it, at most 60 dB."""
    first, last = round(start / HOP_SECONDS), round(end / HOP_SECONDS)
    power = 10 ** (listened.levels_db / 10)
    quiet = ~listened.is_speech
    for reach in (round(seconds / HOP_SECONDS) for seconds in _NOISE_SECONDS):
        around = slice(max(0, first - reach - _GUARD_FRAMES), last + reach + _GUARD_FRAMES)
        # Frames whose neighbours are quiet as well.
        far = np.convolve(~quiet[around], np.ones(2 * _GUARD_FRAMES + 1), mode="same") < 0.5
        if far.sum() >= _MIN_NOISE_FRAMES:
            noise = float(np.quantile(power[around][far], _NOISE_QUANTILE))
            break
    else:
        noise = float(np.quantile(power[first:last], 0.05))
    own = listened.is_speech[first:last]
    speech = float(np.mean(power[first:last][own])) if own.any() else noise
    return float(min(_MAX_SNR_DB, 10 * np.log10(max(speech - noise, 1e-10) / max(noise, 1e-10))))


def loudness_lufs(audio: np.ndarray, rate_hz: int) -> float:
    """Integrated loudness of (N,) audio (ITU-R BS.1770); minus infinity for silence."""
    from pyloudnorm import Meter

    block_seconds = min(0.4, len(audio) / rate_hz)
    return float(Meter(rate_hz, block_size=block_seconds).integrated_loudness(audio.astype(np.float64)))


def characters_per_second(text: str, seconds: float) -> float:
    """Letters and digits for each second."""
    return sum(character.isalnum() for character in text) / seconds


def fingerprint(audio: np.ndarray, rate_hz: int) -> np.ndarray:
    """What (N,) audio has in common with copies of other formats, levels and qualities: (384,) int8.

    The level of each band in each part of the audio, without the mean of each band and of each part.
    """
    size = round(_WINDOW_SECONDS * rate_hz)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio, (0, max(0, size - len(audio)))), size)[:: size // 2]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    frequencies = np.fft.rfftfreq(size, 1 / rate_hz)
    edges = np.geomspace(_LOWEST_HZ, _HIGHEST_HZ, _NUM_BANDS + 1)
    band = np.searchsorted(edges, frequencies, side="right") - 1
    slot = np.arange(len(power)) * _NUM_SLOTS // len(power)
    sums = np.zeros((_NUM_SLOTS, _NUM_BANDS))
    for number in range(_NUM_BANDS):
        np.add.at(sums[:, number], slot, power[:, band == number].sum(1))
    levels = 10 * np.log10(np.maximum(sums, sums.max(initial=1e-20) * 10 ** (-_RANGE_DB / 10)))
    levels -= levels.mean(0)
    levels -= levels.mean(1, keepdims=True)
    return (levels / max(np.abs(levels).max(), 1e-9) * 127).round().astype(np.int8).reshape(-1)


def find_duplicates(fingerprints: np.ndarray, seconds: Sequence[float], similarity: float) -> dict[int, int]:
    """For each segment that is like an earlier one, the number of the first that it is like.

    `fingerprints` (N, 384), `seconds` (N,), both in the order of the corpus. Only segments of about the same length are
    compared, so that a large corpus needs no comparison of all pairs.
    """
    if not len(fingerprints):
        return {}
    lengths = np.array(seconds)
    order = np.argsort(lengths, kind="stable")
    vectors = fingerprints[order].astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    alike: dict[int, list[int]] = {}
    for first in range(0, len(order), _BLOCK):
        last = min(first + _BLOCK, len(order))
        begin = int(np.searchsorted(lengths[order], lengths[order[first]] - _EDGE_SECONDS))
        cosines = vectors[first:last] @ vectors[begin:last].T
        for row, column in np.argwhere(cosines >= similarity):
            one, other = int(order[first + row]), int(order[begin + column])
            if one != other and abs(lengths[one] - lengths[other]) <= _EDGE_SECONDS:
                alike.setdefault(max(one, other), []).append(min(one, other))
    duplicates: dict[int, int] = {}
    for number in sorted(alike):
        originals = [other for other in alike[number] if other not in duplicates]
        if originals:
            duplicates[number] = min(originals)
    return duplicates
