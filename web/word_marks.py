"""A text with its suspects, and the times of its words, as the page shows them. All functions are pure."""

from collections.abc import Sequence
from typing import Any

Marked = list[tuple[str, str | float | None]]
"""Pieces of a text, each with a note or None, in gradio's type."""
PROBLEMS = {
    "skipped": "perhaps skipped",
    "repeated": "perhaps repeated",
    "tail": "followed by something else",
    "prompt": "after some of the prompt's text",
}
"""What the page says of each problem of a suspect."""


def word_notes(words: Sequence[dict[str, Any]], suspects: Sequence[dict[str, Any]]) -> list[str]:
    """For each of the `words` of a result, what may be wrong with it, or "".

    A suspect is the word of its text that is nearest in time.
    """
    notes: list[list[str]] = [[] for _ in words]
    for suspect in suspects:
        same = [index for index, word in enumerate(words) if suspect["word"] in word["word"]]
        nearest = min(same, key=lambda index: abs(words[index]["start"] - suspect["time"]), default=None)
        if nearest is not None and PROBLEMS[suspect["problem"]] not in notes[nearest]:
            notes[nearest].append(PROBLEMS[suspect["problem"]])
    return [", ".join(own) for own in notes]


def marked_text(text: str, words: Sequence[dict[str, Any]], notes: Sequence[str]) -> Marked:
    """The text in pieces, each with the note of its word or None; joined, they are the text."""
    pieces: Marked = []
    end = 0
    position = 0
    for word, note in zip(words, notes, strict=True):
        start = text.find(word["word"], position)
        if start < 0:
            continue
        position = start + len(word["word"])
        if note:
            pieces += [(text[end:start], None), (word["word"], note)]
            end = position
    return [piece for piece in [*pieces, (text[end:], None)] if piece[0]]


def time_rows(words: Sequence[dict[str, Any]], notes: Sequence[str]) -> list[list[str]]:
    """A row for each word: the word, when it begins and ends in seconds, and its note."""
    return [
        [word["word"], f"{word['start']:.2f}", f"{word['end']:.2f}", note]
        for word, note in zip(words, notes, strict=True)
    ]
