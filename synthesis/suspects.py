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

# A suspect has at least this many phones that are skipped, or spoken again. Of two phones, one is often slurred.
_FEWEST_SKIPPED, _FEWEST_REPEATED = 3, 2
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
    # Each with its words and the frame.
    found: list[tuple[Problem, list[int], int]] = [
        ("skipped", _words_of(run, owners), int(np.searchsorted(path, run[0])))
        for run in _skipped(free, first, is_spoken)
    ]
    for run, frame in _repeated(free, first, is_spoken):
        found.append(("repeated", _words_of(run, owners), frame))
    for place, frame in _stays(free, first, is_spoken, frame_rate_hz):
        phone = path[frame] if place < first else place
        # A mark stands for the word that is nearest.
        word = int(owners[owned[np.abs(owned - phone).argmin()]])
        found.append(("prompt" if place < first else "tail", [word], frame))
    suspects = [
        Suspect(problem, words[word].strip(), frame / frame_rate_hz) for problem, own, frame in found for word in own
    ]
    return sorted(suspects, key=lambda suspect: suspect.time)


def _words_of(run: Sequence[int], owners: np.ndarray) -> list[int]:
    """The words that have at least half of their phones in a run, or else the one that has most."""
    counts = {
        word: sum(owners[phone] == word for phone in run) for word in dict.fromkeys(owners[list(run)]) if word >= 0
    }
    halves = [int(word) for word, count in counts.items() if 2 * count >= (owners == word).sum()]
    return halves or [int(word) for word in sorted(counts, key=lambda word: -counts[word])[:1]]


def _skipped(free: np.ndarray, first: int, is_spoken: np.ndarray) -> Iterator[list[int]]:
    """Runs of phones of the target that no frame speaks; marks between them do not end a run."""
    missing = np.isin(np.arange(first, len(is_spoken)), free, invert=True) & is_spoken[first:]
    run: list[int] = []
    for phone, is_missing in enumerate([*missing, False], start=first):
        is_end = phone == len(is_spoken)
        if is_missing:
            run.append(phone)
        elif is_end or is_spoken[phone]:
            if len(run) >= _FEWEST_SKIPPED:
                yield run
            run = []


def _repeated(free: np.ndarray, first: int, is_spoken: np.ndarray) -> Iterator[tuple[list[int], int]]:
    """Runs of phones of the target over which the path goes back, and the frames in which it does."""
    for frame in np.flatnonzero(np.diff(free) < 0) + 1:
        before, now = free[frame - 1], free[frame]
        run = [phone for phone in range(now, before + 1) if is_spoken[phone]]
        if now >= first and len(run) >= _FEWEST_REPEATED:
            yield run, int(frame)


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
