"""Rules as data: a pattern and what replaces it, applied in order."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from num2words import num2words

# Longer numbers are codes rather than quantities, and num2words has no names for numbers of any size.
MAX_DIGITS = 15
# Characters beside a match that a rule looks at: a few words, so that long texts take no longer for each match.
_NEAR = 60
Replacement = str | Callable[[re.Match[str]], str]
Rule = tuple[re.Pattern[str], Replacement]
Rules = Sequence[Rule]


class Section(NamedTuple):
    """Rules that are skipped where the text has nothing that `needs` finds. Most texts have little to normalize."""

    needs: re.Pattern[str]
    rules: Rules


class Neighbours(NamedTuple):
    """Words that belong to the number or the name beside them, for a text that is divided.

    `numbers`, `not_names` and `rulers` are patterns: numbers in words, capitalized words that follow no title, and
    names with Roman numerals.
    """

    after_number: Sequence[str] = ()
    months: Sequence[str] = ()
    short_months: Sequence[str] = ()
    before_name: Sequence[str] = ()
    before_number: Sequence[str] = ()
    numbers: str = "(?!)"
    not_names: str = "(?!)"
    rulers: str = "(?!)"


def apply(rules: Rules, text: str) -> str:
    """The text after each rule, in order: a rule sees what those before it left."""
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def apply_sections(sections: Sequence[Section], text: str) -> str:
    for section in sections:
        if section.needs.search(text):
            text = apply(section.rules, text)
    return text


def words_before(match: re.Match[str]) -> str:
    """The text before a match: its last few words."""
    return match.string[max(0, match.start() - _NEAR) : match.start()]


def words_after(match: re.Match[str]) -> str:
    """The text after a match: its first few words."""
    return match.string[match.end() : match.end() + _NEAR]


def any_of(words: Iterable[str]) -> str:
    """A pattern of any of the words. Longer ones are tried first, so that no word hides one that it begins."""
    return "(?:" + "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) + ")"


@lru_cache(maxsize=10_000)
def in_words(number: int, language: str, form: str = "cardinal") -> str:
    """A number of at most `MAX_DIGITS` digits; `form` is cardinal or ordinal."""
    return str(num2words(number, lang=language, to=form)).replace(",", "")


def cardinal(digits: str, language: str) -> str:
    """ASCII digits as a number, or one by one if they begin with a zero or are too long for a quantity."""
    if len(digits) > MAX_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        return one_by_one(digits, language)
    return in_words(int(digits), language)


def one_by_one(digits: str, language: str) -> str:
    return " ".join(in_words(int(digit), language) for digit in digits)


def digit_groups(text: str, language: str) -> str:
    """Each run of digits one by one, with a comma between runs: telephone numbers and codes."""
    return ", ".join(one_by_one(run, language) for run in re.findall("[0-9]+", text))
