"""English numbers: years, fractions, ranges, telephone numbers, ordinals, and every digit that is left."""

import re

from processors.normalization.engine import (
    Rules,
    cardinal,
    digit_groups,
    in_words,
    one_by_one,
    words_after,
    words_before,
)
from processors.normalization.english.words import NUMBERED, RULERS
from processors.normalization.roman import roman

N = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
"""A pattern: 12 or 1,234.56 or .5."""
SIGN = r"(?:(?<![\w.,)\]'’%°$£€-])[-−–](?=[.0-9$£€¥]))?"
"""A pattern: a minus, which unlike a dash follows no word or number."""
DASH = r"\s?[-–—−]\s?"
QUANTITY = rf"{SIGN}(?<![\w./])(?<![0-9],){N}(?:{DASH}{N}(?![.,]?[0-9]))?"
"""A pattern: a number or a range of two."""
FRACTION = r"(?<![\w./,])(?:(?P<whole>[0-9]+)[ -])?(?P<top>[0-9]+)\s?[/⁄]\s?(?P<bottom>[0-9]+)"
"""A pattern: 1/2 or 1 1/2."""
# Denominators that are more likely those of a fraction than the second half of a pair.
_DENOMINATORS = {*range(2, 11), 12, 16, 20, 24, 32, 64, 100, 1000}
# Words before a year.
_IN = re.compile(
    r"\b(?:in|since|by|until|till|before|after|from|to|of|during|circa|around|year|spring|summer|autumn|fall|winter"
    r"|established|copyright|late|early|mid)[\s-]$",
    re.IGNORECASE,
)
# What is counted.
_THINGS = re.compile(r"\s(?:(?!this\b|does\b|across\b|always\b)[a-z]{3,}s|people|men|women|children|sq)\b")


def number(text: str) -> str:
    """A number with its sign, commas and decimals."""
    sign = "minus " if text[0] in "-−–" else ""
    whole, point, decimals = text.lstrip("-−–").replace(",", "").partition(".")
    spoken = cardinal(whole or "0", "en")
    return sign + (f"{spoken} point {one_by_one(decimals, 'en')}" if point else spoken)


def quantity(text: str) -> str:
    """A number, or a range of two."""
    sign, rest = (text[0], text[1:]) if text[0] in "-−–" else ("", text)
    first, *last = re.split(DASH, rest)
    return " to ".join([number(sign + first), *map(number, last)])


def ordinal(digits: str) -> str:
    return in_words(int(digits.replace(",", "")[-15:]), "en", "ordinal")


def year(digits: str) -> str:
    """A year in pairs: nineteen oh five, twenty ten, but two thousand and five; of two digits, as 99 in 12/25/99."""
    first, last = divmod(int(digits), 100)
    if len(digits) == 2:
        return _pair(last)
    if first % 10 == 0 and last < 10:
        return in_words(int(digits), "en")
    return f"{in_words(first, 'en')} {_pair(last) if last else 'hundred'}"


def _pair(value: int) -> str:
    return f"oh {in_words(value, 'en')}" if value < 10 else in_words(value, "en")


def plural(word: str) -> str:
    """Of a number: nineties, sixes, tenths."""
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}es" if word.endswith("x") else f"{word}s"


def _ruler(match: re.Match[str]) -> str:
    value = roman(match[2])
    return f"{match[1]} the {in_words(value, 'en', 'ordinal')}" if value else match[0]


def _numbered(match: re.Match[str]) -> str:
    value = roman(match[2])
    return f"{match[1]} {in_words(value, 'en')}" if value else match[0]


def _century(match: re.Match[str]) -> str:
    value = roman(match[1])
    return in_words(value, "en", "ordinal") if value else match[0]


def fraction(match: re.Match[str]) -> str:
    whole, top, bottom = match["whole"], int(match["top"]), int(match["bottom"])
    if (top, bottom) in ((24, 7), (9, 11), (50, 50)):
        return f"{in_words(top, 'en')} {in_words(bottom, 'en')}"
    if top > 99 or bottom not in _DENOMINATORS:
        return f"{cardinal(match['top'], 'en')} over {cardinal(match['bottom'], 'en')}"
    part = {2: "half", 4: "quarter"}.get(bottom) or in_words(bottom, "en", "ordinal")
    if top != 1:
        part = "halves" if bottom == 2 else plural(part)
    if whole:
        return f"{cardinal(whole, 'en')} and " + ("a half" if part == "half" else f"{in_words(top, 'en')} {part}")
    return f"{in_words(top, 'en')} {part}"


def _years(match: re.Match[str]) -> str:
    return f"{year(match[1])} to {year(match[2]) if len(match[2]) == 4 else in_words(int(match[2]), 'en')}"


def _version(match: re.Match[str]) -> str:
    parts = match[0].split(".")
    if len(parts) == 4:
        return " dot ".join(one_by_one(part, "en") for part in parts)
    return " point ".join(cardinal(part, "en") for part in parts)


def _difference(match: re.Match[str]) -> str:
    """A dash between spaced numbers is a minus in a calculation, and otherwise a range."""
    is_sum = re.match(r"\s*=", words_after(match)) is not None
    return f"{number(match[1])} {'minus' if is_sum else 'to'} {number(match[2])}"


def _year_or_count(match: re.Match[str]) -> str:
    """Four digits from 1000 to 2099: a year, or hundreds as in 1500 people, unless more speaks for a count."""
    is_dated = _IN.search(words_before(match)) is not None
    is_count = match[0] < "1100" or (_THINGS.match(match.string, match.end()) and match[0][2:] != "00")
    return year(match[0]) if is_dated or not is_count else in_words(int(match[0]), "en")


def _apart(match: re.Match[str]) -> str:
    """Letters and digits of a name: MP 3, eh 4."""
    parts = re.findall(r"[0-9]+(?:\.[0-9]+)?|[^\W\d]+", match[0])
    return " ".join(number(part) if part[0].isdigit() else "eh" if part == "A" else part for part in parts)


def _size(text: str) -> str:
    return year(text) if re.fullmatch("1[0-9]{3}", text) else number(text)


NUMBERS: Rules = [
    (re.compile(rf"\b({RULERS}) ([IVX]{{2,}}|[VX])\b"), _ruler),
    (re.compile(r"\b((?:King|Queen|Pope|Emperor|Empress|Tsar|Prince) [A-Z][a-z]+) ([IVX]+)\b"), _ruler),
    (re.compile(r"\b(WW)(I{1,2})\b"), lambda m: f"World War {'one' if m[2] == 'I' else 'two'}"),
    (re.compile(rf"\b({NUMBERED}) ([IVXLC]+|[ivx]+)\b"), _numbered),
    (re.compile(r"\b([IVX]+)(?=\s(?:century|Century|centuries)\b)"), _century),
    # Other names, with numerals that are no word: Rocky IV.
    (re.compile(r"\b([A-Z][a-z]{3,}) ((?=[IVX]{2,}\b)X{0,2}(?:IX|IV|V?I{0,3}))\b"), _numbered),
    # Numbers that are digits: what is dialled, codes, and numbers in more than two parts.
    (re.compile(r"(?<![\w+])\+[0-9][0-9 ().-]{5,}[0-9]"), lambda m: f"plus {digit_groups(m[0], 'en')}"),
    (
        re.compile(r"(?<![\w.-])(?:1[-. ])?(?:\([0-9]{3}\)\s?|[0-9]{3}[-. ])?[0-9]{3}[-.][0-9]{4}(?![\w-]|\.[0-9])"),
        lambda m: digit_groups(m[0], "en"),
    ),
    (re.compile(r"(?<![\w.-])[0-9]+(?:-[0-9]+){2,}(?![\w-])"), lambda m: digit_groups(m[0], "en")),
    (
        re.compile(
            r"\b((?:[Zz][Ii][Pp](?: code)?|PIN|passcode|(?:area|access|security) code)(?: is|:)? |(?:[Dd]ial|[Cc]all) "
            r"(?=[0-9]{3,}\b)|[A-Z]{2} (?=[0-9]{5}\b))([0-9]+)\b"
        ),
        lambda m: m[1] + one_by_one(m[2], "en"),
    ),
    (re.compile(r"\b[vV]\.?\s?(?=[0-9]+\.[0-9]+)"), "version "),
    (re.compile(r"(?<![\w.])[0-9]+(?:\.[0-9]+){2,}(?![\w.]*[0-9])"), _version),
    # Two equal numbers are no range: a 50-50 chance, 20-20 vision.
    (re.compile(r"(?<![\w.,/-])([1-9][0-9])[-–]\1(?![\w/-]|[.,][0-9])"), lambda m: f"{number(m[1])} {number(m[1])}"),
    # Fractions before ranges, which would take the 1-1 of 1-1/2.
    (re.compile(rf"{FRACTION}(?![\w/]|\.[0-9])"), fraction),
    (re.compile(r"(?<![\w’'])([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:st|nd|rd|th)\b"), lambda m: ordinal(m[1])),
    (re.compile(rf"(?<![\w.,-])([12][0-9]{{3}}){DASH}([12][0-9]{{3}}|[0-9]{{2}})(?![\w-]|[.,][0-9])"), _years),
    # Sizes and multiples.
    (re.compile(rf"(?<![\w.])({N})\s?[x×]\s?({N})(?!\w)"), lambda m: f"{_size(m[1])} by {_size(m[2])}"),
    (re.compile(rf"(?<![\w.])({N})[x×](?=\s[a-z])"), lambda m: f"{number(m[1])} times"),
    (re.compile(rf"(?<![\w.])({N})\s[-−–]\s({N})(?![\w]|[.,][0-9])"), _difference),
    (re.compile(r"(?<![\w.:])([0-9]+):([0-9]+)(?![\w:])"), lambda m: f"{number(m[1])} to {number(m[2])}"),
    (re.compile(rf"(?<![\w.])({N})\+(?=\s)"), lambda m: f"{number(m[1])} plus"),
    (re.compile(r"\b([0-9]+)ers\b"), lambda m: f"{cardinal(m[1], 'en').removesuffix('e')}ers"),
    # Letters and digits in one word, and a hyphen between them: F-16, COVID-19.
    (re.compile(r"(?<=[A-Za-z])-(?=[0-9])"), " "),
    (re.compile(r"\b(?=[\w.]*[0-9])(?=[0-9.]*[^\W\d_]|[^\W\d_]+[0-9])(?:[^\W_]|(?<=[0-9])\.(?=[0-9]))+"), _apart),
    (re.compile(r"(?<![\w.,])(?:1[0-9]|20)[0-9]{2}\b(?![,.][0-9])"), _year_or_count),
    (re.compile(r"(?<=\byear )[1-9][0-9]{3}\b"), lambda m: year(m[0])),
    (re.compile(QUANTITY), lambda m: quantity(m[0])),
    (re.compile(r"[0-9]+"), lambda m: f" {cardinal(m[0], 'en')} "),
]
