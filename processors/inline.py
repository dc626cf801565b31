"""Marks in a text that are no words: phones, [[həˈloʊ]], and pauses, [pause 0.5s]. The same in all stages."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from utils.errors import UserError

MAX_PAUSE_SECONDS = 60.0
PHONES = r"\[\[[^\[\]]*\]\]"
"""A pattern: inline phones."""
PHONES_OR_PAUSE = re.compile(rf"{PHONES}|\[\s*pause\b(?P<length>[^\[\]]*)\]", re.IGNORECASE)
"""Inline phones, or a pause, whose length may be wrong."""
_LENGTH = re.compile(r"\s+([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*s\s*", re.IGNORECASE)


class Pause(NamedTuple):
    """A pause, and where its mark is in the text."""

    start: int
    end: int
    seconds: float


def find_pauses(text: str) -> Iterator[Pause]:
    """The pauses of a text in order. Raises UserError if the length of one is missing or too large."""
    for match in PHONES_OR_PAUSE.finditer(text):
        if match["length"] is None:
            continue
        length = _LENGTH.fullmatch(match["length"])
        if length is None or float(length[1]) > MAX_PAUSE_SECONDS:
            raise UserError(
                f"{' '.join(match[0].split())} takes a length of at most {MAX_PAUSE_SECONDS:g} s, as in [pause 0.5s]; "
                "correct it, or remove it"
            )
        yield Pause(*match.span(), float(length[1]))


def split_at_pauses(text: str) -> list[str]:
    """The text before the first pause, between each two, and after the last. Raises UserError as `find_pauses`."""
    pauses = list(find_pauses(text))
    starts, ends = [0, *(pause.end for pause in pauses)], [*(pause.start for pause in pauses), len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def without_marks(text: str) -> str:
    """The text as it is shown to readers: without pauses, and without the brackets of inline phones."""
    return PHONES_OR_PAUSE.sub(lambda match: match[0][2:-2] if match["length"] is None else "", text)
