"""Finds speech in a recording: silero-vad's probabilities, and edges where the level leaves the noise."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from utils.audio import read_audio, read_duration_seconds
from utils.errors import UserError, first_line

RATE_HZ = 16000
"""Sample rate at which speech is looked for and measured."""
HOP_SECONDS = 0.01
"""Distance of the frames whose levels are kept."""
MIN_PAUSE_SECONDS = 0.1
"""Shorter silences, such as those of plosives, are part of the speech."""
_HOP = round(RATE_HZ * HOP_SECONDS)
# The network reads a frame with the end of the frame before it.
_FRAME, _CONTEXT = 512, 64
_FRAME_SECONDS = _FRAME / RATE_HZ
# Audio that is read at once, and what is read around it for the resampler. A whole number of frames of both kinds.
_BLOCK_SECONDS, _MARGIN_SECONDS = 64, 0.1
# Speech ends where the probability is this much below the one at which it begins.
_HYSTERESIS = 0.15
_MIN_SPEECH_SECONDS = 0.1
# How far an edge may move from where the network sees it, and the dips in the level that it passes over.
_EDGE_SECONDS, _DIP_SECONDS = 0.25, 0.05
# The noise around an edge is measured this far around it.
_NOISE_SECONDS = 2.0
_SILENT_DB = -100.0
# Speech rises above the noise by this, and by this share of its own distance to the noise. What is this much quieter
# than the region's loud frames, such as reverberation, is not speech.
_LOUD_QUANTILE, _MIN_RISE_DB, _RISE_SHARE, _MAX_RANGE_DB = 0.95, 6.0, 0.15, 40.0


@dataclass(frozen=True)
class Region:
    """A stretch of speech without a pause, in seconds of its recording."""

    start: float
    end: float


@dataclass(frozen=True)
class Listened:
    """What is kept of a whole recording.

    `levels_db` (F,) are the levels of frames of 10 ms in dB of full scale, and `is_speech` (F,) whether a frame is in a
    region. `content` is a hash of the samples, which is that of the same audio in another lossless format as well.
    """

    seconds: float
    levels_db: np.ndarray
    is_speech: np.ndarray
    regions: list[Region]
    content: str


class SileroVad:
    """silero-vad's network, whose weights are in its package. It is stateful: one object reads one recording."""

    def __init__(self) -> None:
        self._network = _load_network()
        self._hidden = self._cell = np.zeros((1, 1, 128), np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)

    def probabilities(self, audio: np.ndarray) -> np.ndarray:
        """The probability of speech in each frame of 32 ms of the next samples (N,); a last part of one is padded."""
        padded = np.concatenate([self._context, audio, np.zeros(-len(audio) % _FRAME, np.float32)])
        self._context = padded[-_CONTEXT:]
        frames = np.lib.stride_tricks.sliding_window_view(padded, _CONTEXT + _FRAME)[::_FRAME]
        inputs = {"input": np.ascontiguousarray(frames), "h": self._hidden, "c": self._cell}
        found, self._hidden, self._cell = self._network.run(None, inputs)
        return found


@lru_cache(maxsize=1)
def _load_network() -> Any:
    """The network in ONNX, which is data, where the package's TorchScript would be a program. Raises UserError."""
    spec = find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("stage 0 needs silero-vad: pip install 'vallet[recordings]'")
    path = Path(spec.submodule_search_locations[0]) / "data" / "silero_vad_16k_sequence.onnx"
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Other recordings are read in other processes at the same time.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # The runtime raises many types.
        reason = first_line(error)
        raise UserError(f"silero-vad cannot be loaded ({reason}); pip install 'vallet[recordings]'") from error


def listen(path: Path, threshold: float) -> Listened:
    """Find the speech in a file, which is read in blocks. Raises UserError if it cannot be read."""
    vad = SileroVad()
    probabilities, levels = [], []
    num_samples, digest = 0, hashlib.sha256()
    for block in _blocks(path):
        probabilities.append(vad.probabilities(block))
        levels.append(_levels_db(block))
        num_samples += len(block)
        digest.update((block.clip(-1, 1) * 32767).round().astype("<i2").tobytes())
    levels_db, probability = np.concatenate(levels), np.concatenate(probabilities)
    # A frame of levels belongs to the network's frame that its middle is in.
    frames = ((np.arange(len(levels_db)) + 0.5) * HOP_SECONDS / _FRAME_SECONDS).astype(int)
    is_noise = probability[frames.clip(max=len(probability) - 1)] < threshold / 2
    regions = _refined(_regions(probability, threshold), levels_db, is_noise)
    is_speech = np.zeros(len(levels_db), bool)
    for region in regions:
        is_speech[round(region.start / HOP_SECONDS) : round(region.end / HOP_SECONDS)] = True
    return Listened(num_samples / RATE_HZ, levels_db, is_speech, regions, digest.hexdigest())


def _blocks(path: Path) -> Iterator[np.ndarray]:
    """A recording at `RATE_HZ` in blocks, so that its length does not matter for the memory."""
    seconds, start = read_duration_seconds(path), 0.0
    while True:
        margin, length = min(_MARGIN_SECONDS, start), min(_BLOCK_SECONDS, seconds - start)
        audio = read_audio(path, RATE_HZ, start - margin, margin + length + _MARGIN_SECONDS).numpy()
        first = round(margin * RATE_HZ)
        block = audio[first : first + round(length * RATE_HZ)]
        if len(block):
            yield block
        start += _BLOCK_SECONDS
        # A file that was cut off has less audio than its header says.
        if start >= seconds or len(block) < length * RATE_HZ - 1:
            return


def _levels_db(audio: np.ndarray) -> np.ndarray:
    frames = np.pad(audio, (0, -len(audio) % _HOP)).reshape(-1, _HOP)
    power = np.mean(frames.astype(np.float64) ** 2, axis=1)
    return 10 * np.log10(np.maximum(power, 10 ** (_SILENT_DB / 10)))


def _regions(probability: np.ndarray, threshold: float) -> list[Region]:
    """Regions with pauses of at least `MIN_PAUSE_SECONDS` between them, with the network's resolution."""
    found: list[Region] = []
    start: int | None = None
    last = 0
    for index, value in enumerate(probability):
        if start is None:
            if value >= threshold:
                start = last = index
        elif value >= threshold - _HYSTERESIS:
            last = index
        elif (index - last) * _FRAME_SECONDS >= MIN_PAUSE_SECONDS:
            found.append(Region(start * _FRAME_SECONDS, (last + 1) * _FRAME_SECONDS))
            start = None
    if start is not None:
        found.append(Region(start * _FRAME_SECONDS, (last + 1) * _FRAME_SECONDS))
    return found


def _refined(regions: list[Region], levels_db: np.ndarray, is_noise: np.ndarray) -> list[Region]:
    """Move edges to where the level rises above the noise around them; regions that then touch become one."""
    reach = round(_EDGE_SECONDS / HOP_SECONDS)
    refined: list[Region] = []
    for index, region in enumerate(regions):
        first, last = round(region.start / HOP_SECONDS), min(round(region.end / HOP_SECONDS), len(levels_db))
        # An edge does not move beyond the middle of a pause.
        before = regions[index - 1].end if index else -region.start
        after = regions[index + 1].start if index + 1 < len(regions) else np.inf
        lowest = max(first - reach, round((before + region.start) / 2 / HOP_SECONDS), 0)
        highest = round(min(last + reach, (region.end + after) / 2 / HOP_SECONDS, len(levels_db)))
        level_db = float(np.quantile(levels_db[first:last], _LOUD_QUANTILE))
        is_loud = levels_db[lowest:last] > _threshold_db(first, level_db, levels_db, is_noise)
        start = lowest + _edge(is_loud, first - lowest)
        is_loud = levels_db[first:highest] > _threshold_db(last, level_db, levels_db, is_noise)
        end = highest - _edge(is_loud[::-1], highest - last)
        if (end - start) * HOP_SECONDS < _MIN_SPEECH_SECONDS:
            continue
        new = Region(start * HOP_SECONDS, end * HOP_SECONDS)
        if refined and new.start - refined[-1].end < MIN_PAUSE_SECONDS:
            refined[-1] = Region(refined[-1].start, new.end)
        else:
            refined.append(new)
    return refined


def _threshold_db(edge: int, level_db: float, levels_db: np.ndarray, is_noise: np.ndarray) -> float:
    """The level that parts noise from speech at an edge of a region whose own level is `level_db`."""
    reach = round(_NOISE_SECONDS / HOP_SECONDS)
    around = slice(max(0, edge - reach), edge + reach)
    noise = levels_db[around][is_noise[around]]
    floor_db = float(np.median(noise)) if len(noise) else float(np.quantile(levels_db[around], 0.05))
    return max(floor_db + max(_MIN_RISE_DB, _RISE_SHARE * (level_db - floor_db)), level_db - _MAX_RANGE_DB)


def _edge(is_loud: np.ndarray, seed: int) -> int:
    """The first loud frame of those that reach `seed` with short dips only, where frames go into the region."""
    loud = np.flatnonzero(is_loud)
    inside = loud[loud >= seed]
    if not len(inside):
        return seed
    edge = int(inside[0])
    dip = round(_DIP_SECONDS / HOP_SECONDS)
    for frame in loud[loud < edge][::-1]:
        if edge - frame > dip:
            break
        edge = int(frame)
    return edge
