"""English: numbers, dates, times, money, units, names and abbreviations in words."""

import re

from processors.normalization.engine import Neighbours, Section, any_of, in_words
from processors.normalization.english.dates import DATES
from processors.normalization.english.money import MEASURES
from processors.normalization.english.names import ANY_NAME, NAMES
from processors.normalization.english.numbers import NUMBERS
from processors.normalization.english.symbols import ADDRESSES, SYMBOLS
from processors.normalization.english.words import (
    BEFORE_NUMBERS,
    CURRENCIES,
    MONTH_NAMES,
    MONTHS,
    NUMBERED,
    RULERS,
    SCALES,
    SENTENCE_STARTS,
    TITLES,
    UNITS,
)

_TENS = any_of(in_words(number, "en") for number in range(20, 100, 10))
_BELOW_TWENTY = any_of(in_words(number, "en") for number in range(1, 20))
NEIGHBOURS = Neighbours(
    after_number=[
        *SCALES,
        *UNITS,
        *(name.split()[0] for names in UNITS.values() for name in names),
        *(name for name in CURRENCIES if name.isalpha()),
        *(name for names in CURRENCIES.values() for name in names if name),
        *["%", "percent", "dozen", "o'clock", "BC", "AD", "AM", "PM", "am", "pm", "a.m", "p.m", "A.M", "P.M"],
        "per cent",
    ],
    numbers=rf"(?:{_TENS}(?:[\s-]{_BELOW_TWENTY})?|{_BELOW_TWENTY})",
    months=MONTHS,
    short_months=[name for name in MONTH_NAMES if name not in MONTHS],
    before_name=[*TITLES, "St", "Dr"],
    before_number=[*BEFORE_NUMBERS, *NUMBERED.split("|")],
    not_names=SENTENCE_STARTS,
    rulers=RULERS,
)


def sections(is_day_first: bool) -> list[Section]:
    """All rules in order; `is_day_first` reads 3/4 as the third of April, as everywhere but in the US."""
    return [
        # Stops and digits of addresses must not become those of abbreviations and numbers.
        Section(re.compile(r"\w[.@:/]\w|[#@^~≈±§©❤♥🧡💛💚💙💜🖤×<>≤≥≠⩽⩾]|!="), ADDRESSES),
        # Abbreviations before dates and streets, whose months and numbers they contain.
        Section(ANY_NAME, NAMES),
        # What has a form of its own before plain numbers: the more specific first.
        Section(re.compile(r"[0-9]|day\s?[-–]|\b[A-Z][a-z]{2,4}(?:\.|\s?[-–]\s?[A-Z])"), DATES[is_day_first]),
        Section(re.compile("[0-9¼-¾⅐-⅞²³⁰¹⁴-⁹]"), MEASURES),
        Section(re.compile(r"[0-9]|[A-Z][a-z]+ (?:[IVXLC]+|[ivx]+)\b|\bWWI|[IVX]+ [Cc]entur"), NUMBERS),
        # Signs at last, when numbers no longer contain them.
        Section(re.compile(r"[^\w\s,;:!?'\"’‘“”().…—–-]|_|->"), SYMBOLS),
    ]
