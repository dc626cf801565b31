"""What may be wrong with speech, from the path of its frames over the phones. All functions are pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from synthesis.words import is_sound

Problem = Literal["skipped", "repeated", "tail", "prompt"]
"""skipped: phones of the word are missing; repeated: the speech goes back to it; tail: the speech goes on after the end
of the text, or stays at the word; prompt: some of the prompt's text comes before it."""

# A suspect has at least this many phones that are skipped, or spoken again.
_FEWEST_PHONES = 3
# One phone, and what follows the last one, may last so long; a shorter stay in the prompt's text does not count.
_LONGEST_STAY_SECONDS, _SHORTEST_LEAK_SECONDS = 1.0, 0.2


@dataclass(frozen=True)
class Suspect:
    """A word that may be wrong, when, in seconds, and how."""

    problem: Problem
    word: str
    time: float


def find_suspects(
    free: np.ndarray,
    path: np.ndarray,
    phones: Sequence[str],
    first: int,
    owners: np.ndarray,
    words: Sequence[str],
    frame_rate_hz: float,
) -> list[Suspect]:
    """The suspects of a text, in the order of time.

    `free` (T,) is the path that may skip and repeat phones, `path` (T,) the one that may not. The target begins with
    the phone `first`. `owners` (S,) are the words of the phones, -1 for marks.
    """
    is_spoken = np.array([is_sound(phone) for phone in phones])
    owned = np.flatnonzero(owners >= 0)
    if not len(owned):
        return []
    found = [
        *(
            ("skipped", phone, np.searchsorted(path, run[0]))
            for run in _skipped(free, first, is_spoken)
            for phone in run
        ),
        *(("repeated", phone, frame) for phone, frame in _repeated(free, first, is_spoken)),
        *(
            ("prompt" if place < first else "tail", path[frame] if place < first else place, frame)
            for place, frame in _stays(free, first, is_spoken, frame_rate_hz)
        ),
    ]
    suspects = []
    for problem, phone, frame in found:
        # A mark stands for the word that is nearest.
        word = words[owners[owned[np.abs(owned - phone).argmin()]]].strip()
        suspects.append(Suspect(problem, word, float(frame) / frame_rate_hz))
    return sorted(dict.fromkeys(suspects), key=lambda suspect: suspect.time)


def _skipped(free: np.ndarray, first: int, is_spoken: np.ndarray) -> Iterator[list[int]]:
    """Runs of phones of the target that no frame speaks; marks between them do not end a run."""
    missing = np.isin(np.arange(first, len(is_spoken)), free, invert=True) & is_spoken[first:]
    run: list[int] = []
    for phone, is_missing in enumerate([*missing, False], start=first):
        is_end = phone == len(is_spoken)
        if is_missing:
            run.append(phone)
        elif is_end or is_spoken[phone]:
            if len(run) >= _FEWEST_PHONES:
                yield run
            run = []


def _repeated(free: np.ndarray, first: int, is_spoken: np.ndarray) -> Iterator[tuple[int, int]]:
    """Phones of the target to which the path goes back, and the frames."""
    for frame in np.flatnonzero(np.diff(free) < 0) + 1:
        before, now = free[frame - 1], free[frame]
        if now >= first and is_spoken[now : before + 1].sum() >= _FEWEST_PHONES:
            yield int(now), int(frame)


def _stays(free: np.ndarray, first: int, is_spoken: np.ndarray, frame_rate_hz: float) -> Iterator[tuple[int, int]]:
    """Where the path stays too long, and the frame in which it begins to: a phone, or -1 for the prompt's text.

    All that follows the last phone is one place. A pause at a mark within the text may have any length.
    """
    last = int(np.flatnonzero(is_spoken)[-1])
    places = np.select([free < first, free > last], [-1, last + 1], free)
    frame = 0
    for place, same in groupby(places.tolist()):
        num_frames = len(list(same))
        seconds = num_frames / frame_rate_hz
        longest = _SHORTEST_LEAK_SECONDS if place < first else _LONGEST_STAY_SECONDS
        if seconds > longest and (place < first or place > last or is_spoken[place]):
            yield place, frame
        frame += num_frames
