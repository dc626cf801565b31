"""Cuts the speech of a recording into segments: at pauses and changes of the speaker, each of a useful length."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from config.schema import RecordingsSettings
from recordings.voice import HOP_SECONDS, Region

# Speech without any pause is cut where its level over this time is lowest.
_SMOOTHING_SECONDS = 0.05


@dataclass(frozen=True)
class Segment:
    """Speech of one speaker, in seconds of its recording; `speaker` numbers the voices of the recording."""

    start: float
    end: float
    speaker: int = 0

    @property
    def seconds(self) -> float:
        return self.end - self.start


def cut(
    regions: Sequence[Region], speakers: Sequence[int], levels_db: np.ndarray, settings: RecordingsSettings
) -> list[Segment]:
    """Segments of regions, each of which has the voice of the same place in `speakers`.

    Every pause of `cut_pause` is cut at, and speech above `max_duration` at its longest pauses. Parts below
    `min_duration` join the neighbour that is nearer, if the speaker is the same, the pause at most `max_pause` and the
    whole not too long. What stays too short is a segment nevertheless: it is left out with a reason.
    """
    segments: list[Segment] = []
    for run in _runs(regions, speakers, settings.max_pause):
        groups = _split(run, [index for index in range(1, len(run)) if _pause(run, index) >= settings.cut_pause])
        fitting = [part for group in groups for part in _shortened(group, levels_db, settings)]
        segments += _joined(fitting, settings)
    return segments


def _runs(regions: Sequence[Region], speakers: Sequence[int], max_pause: float) -> list[list[Segment]]:
    """Neighbours that may be in one segment."""
    runs: list[list[Segment]] = []
    for region, speaker in zip(regions, speakers, strict=True):
        part = Segment(region.start, region.end, speaker)
        last = runs[-1][-1] if runs else None
        if last is not None and last.speaker == speaker and part.start - last.end <= max_pause:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def _pause(parts: Sequence[Segment], index: int) -> float:
    """The pause before a part, in seconds."""
    return parts[index].start - parts[index - 1].end


def _split(parts: list[Segment], indices: Sequence[int]) -> list[list[Segment]]:
    edges = [0, *indices, len(parts)]
    return [parts[first:last] for first, last in pairwise(edges)]


def _whole(parts: Sequence[Segment]) -> Segment:
    return Segment(parts[0].start, parts[-1].end, parts[0].speaker)


def _shortened(parts: list[Segment], levels_db: np.ndarray, settings: RecordingsSettings) -> list[Segment]:
    """Parts as one segment, or as several where that would be too long: split at the longest pauses first."""
    whole = _whole(parts)
    if whole.seconds <= settings.max_duration:
        return [whole]
    least = settings.min_duration
    # A cut leaves enough on both sides.
    usable = [
        index
        for index in range(1, len(parts))
        if parts[index - 1].end - whole.start >= least and whole.end - parts[index].start >= least
    ]
    if usable:
        best = max(usable, key=lambda index: _pause(parts, index))
        return [segment for group in _split(parts, [best]) for segment in _shortened(group, levels_db, settings)]
    # There is no pause, or only close to the ends: cut where it is quietest.
    place = _quietest(levels_db, whole.start + least, min(whole.end - least, whole.start + settings.max_duration))
    rest = [Segment(max(part.start, place), part.end, part.speaker) for part in parts if part.end > place + HOP_SECONDS]
    return [Segment(whole.start, place, whole.speaker), *_shortened(rest, levels_db, settings)]


def _quietest(levels_db: np.ndarray, start: float, end: float) -> float:
    """The time between `start` and `end` around which the level is lowest, in seconds."""
    first, last = round(start / HOP_SECONDS), max(round(start / HOP_SECONDS) + 1, round(end / HOP_SECONDS))
    half = round(_SMOOTHING_SECONDS / HOP_SECONDS / 2)
    around = np.pad(levels_db, half, mode="edge")[first : last + 2 * half]
    smooth = np.convolve(around, np.ones(2 * half + 1), mode="valid")
    return (first + int(np.argmin(smooth))) * HOP_SECONDS


def _joined(segments: list[Segment], settings: RecordingsSettings) -> list[Segment]:
    """Join segments that are too short to their nearer neighbours, the shortest first."""
    while True:
        candidates = [
            (segments[index].seconds, pause, index, other)
            for index, segment in enumerate(segments)
            if segment.seconds < settings.min_duration
            for other in (index - 1, index + 1)
            if 0 <= other < len(segments)
            for pause in [_pause(segments, max(index, other))]
            if segments[max(index, other)].end - segments[min(index, other)].start <= settings.max_duration
        ]
        if not candidates:
            return segments
        _, _, index, other = min(candidates)
        first, last = min(index, other), max(index, other)
        segments = [*segments[:first], _whole(segments[first : last + 1]), *segments[last + 1 :]]
