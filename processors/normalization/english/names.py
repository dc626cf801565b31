"""English abbreviations, initials, acronyms and addresses of streets."""

import re

from processors.normalization.engine import Rules, any_of, words_before
from processors.normalization.english.numbers import year
from processors.normalization.english.words import (
    ABBREVIATIONS,
    BEFORE_NUMBERS,
    READ_AS_LETTERS,
    SENTENCE_STARTS,
    SPELLED,
    SPELLED_IN_PLURAL,
    TITLES,
    spell,
    stop,
)

_NAME_FOLLOWS = re.compile(rf"\s(?!(?:{SENTENCE_STARTS})\b)[A-Z][a-z]")
_STREET_NAME_PRECEDES = re.compile(r"\b[0-9]+\w*\s(?:[A-Z][a-z]+\s)*$")
_STREETS = "St|Ave|Blvd|Rd|Dr|Ln|Street|Avenue|Boulevard|Road|Drive|Lane|Way|Court|Place|Square"
# A letter after these is no initial.
_LETTERED = re.compile(r"\b(?:[Vv]itamin|[Pp]lan|[Tt]ype|[Cc]lass|[Gg]rade|[Pp]art|[Hh]epatitis|[Gg]roup)\s$")


def _title_or_street(match: re.Match[str]) -> str:
    """St. and Dr. before a name are Saint and Doctor, and otherwise Street and Drive."""
    preceding = words_before(match)
    title, street = {"St": ("Saint", "Street"), "Dr": ("Doctor", "Drive")}[match[1]]
    if _NAME_FOLLOWS.match(match.string, match.end()) and not _STREET_NAME_PRECEDES.search(preceding):
        return title
    # Without a stop, only the end of an address is meant.
    return street + stop(match) if match[0].endswith(".") or _STREET_NAME_PRECEDES.search(preceding) else match[0]


def _dotted(match: re.Match[str]) -> str:
    """U.S. as US, J.K. as J K."""
    letters = re.sub(r"[.\s]", "", match[1])
    return (letters if letters in READ_AS_LETTERS else spell(letters)) + stop(match)


def _initial(match: re.Match[str]) -> str:
    """The W. of George W. Bush."""
    preceding = words_before(match)
    is_name = re.search(r"(?:\b(?:[A-Z][a-z]+|by|and|with|from)\s|^|[.!?]\s)$", preceding) and not _LETTERED.search(
        preceding
    )
    return spell(match[1]) if is_name and (preceding or match[1] != "I") else match[0]


def _acronym(match: re.Match[str]) -> str:
    # In a text of capitals only, capitals do not mean letter names.
    return match[0] if match.string.isupper() else spell(match[1]) + ("'s" if match[2] else "")


def _house(digits: str) -> str:
    return year(f"0{digits}").removeprefix("zero ")


ANY_NAME = re.compile(
    rf"\b(?:[A-Za-z]|Ph|{any_of([*TITLES, *ABBREVIATIONS, *BEFORE_NUMBERS])})\.|\b(?:St|Dr)\b|\b[Ww]/|b/c"
    r"|[A-Z]{2}|IoT|[A-Z]&|[0-9]\s[A-Z]"
)
"""Finds something in every text that the rules below change."""
NAMES: Rules = [
    (re.compile(r"\be\.\s?g\.,?(?=\W)"), "for example"),
    (re.compile(r"\bi\.\s?e\.,?(?=\W)"), "that is"),
    (re.compile(r"\b([Ww])/o(?=\s)"), r"\1ithout"),
    (re.compile(r"\b([Ww])/\s?(?=[a-z])"), r"\1ith "),
    (re.compile(r"\bb/c\b"), "because"),
    (re.compile(r"(?<=[a-z]\s)v\.(?=\s[A-Z])"), "versus"),
    (re.compile(r"\bPh\.\s?D\.?"), lambda m: "PhD" + stop(m)),
    (re.compile(r"\b([BM])\.\s?(Sc|Ed|Eng)\b\.?"), lambda m: spell(m[1] + m[2]) + stop(m)),
    # The number of a house in pairs, while St. is still there to tell that it is one.
    (re.compile(rf"\b([1-9][0-9]{{2}})(?=\s(?:[A-Z][a-z]+\s){{1,3}}(?:{_STREETS})\b)"), lambda m: _house(m[1])),
    (re.compile(r"\b(St|Dr)\b\.?"), _title_or_street),
    (re.compile(rf"\b({any_of(TITLES)})\.(?=\s)"), lambda m: TITLES[m[1]]),
    (re.compile(r"\b([NSEW])\.(?=\s[0-9])"), lambda m: {"N": "North", "S": "South", "E": "East", "W": "West"}[m[1]]),
    (re.compile(rf"\b({any_of(ABBREVIATIONS)})\."), lambda m: ABBREVIATIONS[m[1]] + stop(m)),
    (re.compile(rf"\b({any_of(BEFORE_NUMBERS)})\.\s?(?=[0-9])"), lambda m: f"{BEFORE_NUMBERS[m[1]]} "),
    # Several letters with stops: U.S., J. K. before single ones.
    (re.compile(r"\b((?:[A-Z]\.\s?)+[A-Z])\.(?![\w])"), _dotted),
    (re.compile(rf"\b([A-Z])\.(?=\s(?!(?:{SENTENCE_STARTS})\b)[A-Z][a-z])"), _initial),
    (re.compile(r"\bAD(?=\s[0-9])|(?<=[0-9]\s)AD\b"), spell("AD")),
    (re.compile(rf"\b({SPELLED})(s?)\b"), _acronym),
    (re.compile(rf"\b({SPELLED_IN_PLURAL})(s)\b"), _acronym),
    (re.compile(r"\b([A-Z])&A\b"), r"\1 and eh"),
]
