"""English: numbers, dates, times, money, units, names and abbreviations in words."""

import re

from processors.normalization.engine import Section
from processors.normalization.english.dates import DATES
from processors.normalization.english.money import MEASURES
from processors.normalization.english.names import ANY_NAME, NAMES
from processors.normalization.english.numbers import NUMBERS
from processors.normalization.english.symbols import ADDRESSES, SYMBOLS


def sections(is_day_first: bool) -> list[Section]:
    """All rules in order; `is_day_first` reads 3/4 as the third of April, as everywhere but in the US."""
    return [
        # Stops and digits of addresses must not become those of abbreviations and numbers.
        Section(re.compile(r"\w[.@:/]\w|[#@^~≈±§©❤♥🧡💛💚💙💜🖤×]"), ADDRESSES),
        # Abbreviations before dates and streets, whose months and numbers they contain.
        Section(ANY_NAME, NAMES),
        # What has a form of its own before plain numbers: the more specific first.
        Section(re.compile(r"[0-9]|day\s?[-–]|\b[A-Z][a-z]{2,4}\.\s"), DATES[is_day_first]),
        Section(re.compile("[0-9¼-¾⅐-⅞²³⁰¹⁴-⁹]"), MEASURES),
        Section(re.compile(r"[0-9]|[A-Z][a-z]+ (?:[IVXLC]+|[ivx]+)\b|\bWWI|[IVX]+ [Cc]entur"), NUMBERS),
        # Signs at last, when numbers no longer contain them.
        Section(re.compile(r"[^\w\s,;:!?'\"’‘“”().…—–-]|_|->"), SYMBOLS),
    ]
