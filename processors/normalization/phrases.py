"""Phrases that a text must not be cut in: $5 million, 9:30 p.m., Jan. 5, St. John, Henry VIII."""

import importlib
import re
from collections.abc import Iterator, Sequence
from functools import cache

from processors.normalization.engine import Neighbours, any_of

_MODULES = {"en": "english", "de": "german", "fr": "french", "es": "spanish", "zh": "mandarin", "ja": "japanese"}
# The digits before the space, with what may stand between the two.
_NUMBER = r"(?<!\w)[^\w\s]{0,2}[A-Z]{0,3}[^\w\s]?[0-9](?:[0-9.,:/–-]*[0-9])?[^\W\d_]{0,2}[%°€£]?"
_ROMAN = r"(?:[IVXLC]{2,}|[VX])\b"
_WORD = r"[A-ZÀ-ÖØ-Þ][\w'’-]*"
_CHARACTER_NUMBER = re.compile("[零〇一二三四五六七八九十百千万萬億亿兆]{2,}[年月日円元個个人度点點]?")


def find_phrases(text: str, language: str) -> Iterator[tuple[int, int]]:
    """Where the phrases of a text begin and end; they may overlap. `language` is a language code such as en."""
    for pattern in _phrases(language):
        yield from (match.span() for match in pattern.finditer(text))


@cache
def _phrases(language: str) -> list[re.Pattern[str]]:
    module = importlib.import_module(f"{__package__}.{_MODULES.get(language, 'english')}")
    words: Neighbours = module.NEIGHBOURS
    if language not in _MODULES:
        # The short names of units and currencies are international.
        words = Neighbours(after_number=[name for name in words.after_number if len(name) < 4])
    names = any_of(words.after_number)
    # A stop is part of a short name only: "in May. 5 people" are two sentences.
    month = rf"(?:{_any(words.short_months)}\.?|{_any(words.months)})"
    found = [
        # A number, or one in words, with all magnitudes, units and currencies after it: "$5 million US dollars".
        re.compile(rf"(?:{_NUMBER}|\b{words.numbers})(?:[\s-]+{names}(?!\w)\.?)+"),
        # A currency before the number.
        re.compile(rf"(?<!\w)(?:[$€£¥]|[A-Z]{{3}})\s+[0-9][0-9.,]*(?:\s+{names}(?!\w))*"),
        # A month and its day or year on either side, with a word such as "of" between.
        re.compile(
            rf"(?<!\w){month}\s+[0-9]{{1,4}}[a-z]{{0,2}}(?!\w)(?:,?\s+[12][0-9]{{3}}(?!\w))?"
            rf"|(?<!\w)[0-9]{{1,2}}(?:[a-z]{{2}}|[.º°])?\s+(?:(?:of|de)\s+)?{month}(?!\w)"
            r"(?:,?\s+(?:de\s+)?[12][0-9]{3}(?!\w))?"
        ),
        re.compile(rf"(?<!\w){_any(words.before_name)}\.?(?:\s+(?!(?:{words.not_names})\b){_WORD})"),
        re.compile(rf"(?<!\w){_any(words.before_number)}\.?\s+(?:[0-9]|[IVXLC]+\b)"),
        # A name and its number, which is no sentence of its own: "Henry I" only for names of rulers.
        re.compile(rf"\b{_WORD}\s+{_ROMAN}|\b(?:{words.rulers})\s+I\b"),
    ]
    return [*found, _CHARACTER_NUMBER] if language in ("zh", "ja") else found


def _any(words: Sequence[str]) -> str:
    return any_of(words) if words else "(?!)"
