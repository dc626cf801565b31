"""Japanese phones with accent marks, by pyopenjtalk."""

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

from processors.frontends.base import (
    MARKS,
    Phonemizer,
    check_language,
    join_words_and_marks,
    missing_extra,
    normalize_text,
)

try:
    # Of pyopenjtalk-plus: the original has neither wheels, nor its dictionary in the package, nor this function.
    from pyopenjtalk import g2p_mapping_prosody
except ImportError as error:
    raise missing_extra("pyopenjtalk", "ja", error) from error

RISE, FALL = "↑", "↓"
"""The phones of the accent: from here on the pitch is high, or low."""
_PITCH_CHANGES: dict[tuple[str | None, str | None], str] = {("Low", "High"): RISE, ("High", "Low"): FALL}
_LONG_PHONES = "by ch cl dy fy gw gy hy ky kw my ny py ry sh ts ty"
# A silence and an unknown word, in pyopenjtalk's phones.
_NO_PHONES = ("sp", "unk", "pau")


class JapanesePhonemizer(Phonemizer):
    """Phones of OpenJTalk; words are accent phrases, with marks where the pitch rises and falls.

    Raises UserError if the language is not Japanese.
    """

    def __init__(self, language: str) -> None:
        check_language("pyopenjtalk", language, "ja")

    def phonemize(self, texts: Sequence[str]) -> list[list[str]]:
        return [join_words_and_marks(_phrases_and_marks(text)) for text in texts]

    @property
    def long_phones(self) -> Collection[str]:
        return _LONG_PHONES.split()

    def unreadable(self, text: str) -> list[str]:
        unknown = "".join(word["surface"] for word in _analyzed(text) if word["is_unknown"])
        return [letter for letter in dict.fromkeys(unknown) if unicodedata.category(letter)[0] in "LN"]

    def __reduce__(self) -> tuple[type["JapanesePhonemizer"], tuple[str]]:
        return JapanesePhonemizer, ("ja",)


# Stage 1 asks twice for each text: for its phones, and for letters that cannot be read.
@lru_cache(maxsize=64)
def _analyzed(text: str) -> Sequence[Any]:
    """pyopenjtalk's analysis of a text in words, each with its phones and their pitch."""
    plain = normalize_text(text)
    if not any(character.isalnum() for character in plain):
        # OpenJTalk would complain on standard error.
        return [{"surface": plain, "phonemes": (), "is_unknown": False}]
    return g2p_mapping_prosody(plain)


def _phrases_and_marks(text: str) -> Iterator[list[str]]:
    """The phones of each accent phrase, and each mark by itself."""
    phrase: list[str] = []
    pitch: str | None = None
    for word in _analyzed(text):
        if not any(item["kind"] == "Phoneme" for item in word["phonemes"]):
            # A mark may stand inside a phrase, whose accent goes on after it.
            for mark in normalize_text(word["surface"]):
                if mark in MARKS:
                    yield from [phrase] if phrase else []
                    yield [mark]
                    phrase = []
        for item in word["phonemes"]:
            if item["kind"] != "Phoneme":
                yield from [phrase] if phrase else []
                phrase, pitch = [], None
            elif item["phoneme"] not in _NO_PHONES:
                if change := _PITCH_CHANGES.get((pitch, item["pitch"])):
                    phrase.append(change)
                phrase.append(item["phoneme"])
                pitch = item["pitch"]
    yield from [phrase] if phrase else []
