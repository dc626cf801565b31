"""The words of a text as it is written: their phones, and when they are spoken. All functions are pure."""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from processors.inline import PHONES_OR_PAUSE
from synthesis.parts import IDEOGRAPH

# A gap of this length between two words is no pause: it belongs to the first word.
_SHORTEST_PAUSE_SECONDS = 0.1
_TOKEN = re.compile(rf"\s*(?:{PHONES_OR_PAUSE.pattern}|\S)+\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Word:
    """A word as it is written, with the marks around it, and when it is spoken, in seconds."""

    text: str
    start: float
    end: float


def split_words(text: str) -> list[str]:
    """The words of a text, each with the marks and the white space after it; joined, they are the text.

    In scripts without spaces between words, each character is one.
    """
    tokens = [match[0] for match in _TOKEN.finditer(text)]
    return [word for token in tokens for word in re.split(rf"(?<=\S)(?={IDEOGRAPH})", token) if word]


def is_sound(phone: str) -> bool:
    """Whether a phone is spoken: it is no word boundary and no mark."""
    return any(unicodedata.category(character)[0] in "LMN" for character in phone)


def find_owners(phones: Sequence[str], word_phones: Sequence[Sequence[str]]) -> np.ndarray:
    """The word that each phone of a text belongs to (S,), -1 for word boundaries and marks.

    `word_phones` are those of each word alone, which may differ in the text, and of which there may be more or fewer.
    The phones are matched in order, those that differ by their share of the words between.
    """
    alone = [(phone, word) for word, of_word in enumerate(word_phones) for phone in of_word if is_sound(phone)]
    sounds = [index for index, phone in enumerate(phones) if is_sound(phone)]
    owners = np.full(len(phones), -1)
    if not alone:
        return owners
    matcher = difflib.SequenceMatcher(
        None, [phone for phone, _ in alone], [phones[index] for index in sounds], autojunk=False
    )
    for _, first, last, start, end in matcher.get_opcodes():
        for number in range(start, end):
            # Phones that no word has alone go to the word before them.
            among = first + (number - start) * (last - first) // (end - start) if last > first else max(0, first - 1)
            owners[sounds[number]] = alone[among][1]
    return owners


def find_times(path: np.ndarray, owners: np.ndarray, words: Sequence[str], frame_rate_hz: float) -> list[Word]:
    """The times of the words that are spoken, from a monotone path (T,) and the words that own the phones (S,).

    A word lasts from its first phone to its last. What has no phones, such as a dash, is part of the word before it.
    """
    found: list[Word] = []
    lead = ""
    for index, text in enumerate(words):
        own = np.flatnonzero(owners == index)
        if len(own):
            start, end = np.searchsorted(path, own[0], "left"), np.searchsorted(path, own[-1], "right")
            found.append(Word(lead + text, start / frame_rate_hz, end / frame_rate_hz))
            lead = ""
        elif found:
            found[-1] = replace(found[-1], text=found[-1].text + text)
        else:
            lead += text
    times = []
    for word, after in zip(found, [*found[1:], None], strict=True):
        is_joined = after is not None and after.start - word.end < _SHORTEST_PAUSE_SECONDS
        end = after.start if after is not None and is_joined else word.end
        times.append(Word(word.text.strip(), word.start, end))
    return times
