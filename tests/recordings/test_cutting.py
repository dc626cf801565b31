"""Speech is cut into segments of useful lengths, and none of it is lost."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recordings.cutting import Segment, cut
from recordings.voice import HOP_SECONDS, Region
from tests.conftest import defaults

SETTINGS = defaults().recordings
# Speech and the pause after it, in hundredths of a second, and whether the speaker is another from here on.
PARTS = st.lists(st.tuples(st.integers(10, 3000), st.integers(10, 200), st.booleans()), min_size=1, max_size=12)


def regions_of(parts: list[tuple[int, int, bool]]) -> tuple[list[Region], list[int]]:
    regions, speakers, place, speaker = [], [], 50, 0
    for length, pause, changes in parts:
        speaker = 1 - speaker if changes else speaker
        regions.append(Region(place / 100, (place + length) / 100))
        speakers.append(speaker)
        place += length + pause
    return regions, speakers


def levels_of(regions: list[Region]) -> np.ndarray:
    levels = np.full(round(regions[-1].end / HOP_SECONDS) + 50, -60.0)
    for region in regions:
        levels[round(region.start / HOP_SECONDS) : round(region.end / HOP_SECONDS)] = -20
    return levels


@given(PARTS)
def test_no_speech_is_lost_and_no_segment_is_too_long(parts: list[tuple[int, int, bool]]) -> None:
    regions, speakers = regions_of(parts)
    segments = cut(regions, speakers, levels_of(regions), SETTINGS)
    assert all(segment.seconds <= SETTINGS.max_duration + 1e-6 for segment in segments)
    assert all(a.end <= b.start + 1e-6 for a, b in pairwise(segments))
    for region, speaker in zip(regions, speakers, strict=True):
        own = [part for part in segments if part.end > region.start + 1e-6 and part.start < region.end - 1e-6]
        assert {part.speaker for part in own} == {speaker}
        covered = sum(min(part.end, region.end) - max(part.start, region.start) for part in own)
        assert abs(covered - (region.end - region.start)) < 1e-6


@given(PARTS)
def test_only_what_cannot_be_joined_is_too_short(parts: list[tuple[int, int, bool]]) -> None:
    regions, speakers = regions_of(parts)
    segments = cut(regions, speakers, levels_of(regions), SETTINGS)
    for first, second in pairwise(segments):
        if min(first.seconds, second.seconds) < SETTINGS.min_duration - 1e-6:
            assert (
                first.speaker != second.speaker
                or second.start - first.end > SETTINGS.max_pause - 1e-6
                or second.end - first.start > SETTINGS.max_duration - 1e-6
            )


def test_the_longest_pause_is_cut_at() -> None:
    regions = [Region(0, 5), Region(5.2, 9), Region(9.3, 13), Region(13.2, 18)]
    segments = cut(regions, [0] * 4, levels_of(regions), SETTINGS)
    assert segments == [Segment(0, 9), Segment(9.3, 18)]


def test_speech_without_pauses_is_cut_where_it_is_quietest() -> None:
    levels = levels_of([Region(0, 20)])
    levels[790:810] = -40
    first, second = cut([Region(0, 20)], [0], levels, SETTINGS)
    assert abs(first.end - 8) < 0.1 and first.end == second.start and second.end == 20
