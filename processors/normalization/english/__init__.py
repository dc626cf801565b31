"""English: numbers, dates, times, money, units, names and abbreviations in words."""

from processors.normalization.engine import Rules
from processors.normalization.english.dates import DATES
from processors.normalization.english.money import MEASURES
from processors.normalization.english.names import NAMES
from processors.normalization.english.numbers import NUMBERS
from processors.normalization.english.symbols import ADDRESSES, SYMBOLS


def rules(is_day_first: bool) -> Rules:
    """All rules in order; `is_day_first` reads 3/4 as the third of April, as everywhere but in the US."""
    return [
        # Stops and digits of addresses must not become those of abbreviations and numbers.
        *ADDRESSES,
        # Abbreviations before dates and streets, whose months and numbers they contain.
        *NAMES,
        # What has a form of its own before plain numbers: the more specific first.
        *DATES[is_day_first],
        *MEASURES,
        *NUMBERS,
        # Signs at last, when numbers no longer contain them.
        *SYMBOLS,
    ]
