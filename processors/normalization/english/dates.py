"""English dates and times."""

import re
from functools import partial

from processors.normalization.engine import Rules, any_of, in_words, words_after
from processors.normalization.english.numbers import DASH, plural, year
from processors.normalization.english.words import MONTH_NAMES, MONTHS, WEEKDAYS, stop

# A stop is part of a short name only: "the 4th of July." ends there.
_MONTH = (
    rf"(?P<month>{any_of([*MONTHS, *(f'{name}.' for name in MONTH_NAMES if name not in MONTHS), *MONTH_NAMES])})(?!\w)"
)
_DAY = r"(?P<day>0?[1-9]|[12][0-9]|3[01])(?:st|nd|rd|th)?\b"
_YEAR = r"(?:(?P<comma>,?)\s(?P<year>[12][0-9]{3})\b)?"
_HALF = r"[aApP](?:\.\s?[mM]\.|[mM]\b)"
_HOUR = r"(?<![\w.,:$£€¥-])(?P<hour>[01]?[0-9]|2[0-4])"


def _month(match: re.Match[str]) -> str:
    return MONTH_NAMES[match["month"].rstrip(".")]


def _nth(day: str) -> str:
    return in_words(int(day), "en", "ordinal")


def _month_day(match: re.Match[str]) -> str:
    """January fifth, twenty twenty-four"""
    spoken = f"{_month(match)} {_nth(match['day'])}"
    if match["last"]:
        spoken += f" to {_nth(match['last'])}"
    return spoken + (f"{match['comma']} {year(match['year'])}" if match["year"] else "")


def _day_month(match: re.Match[str]) -> str:
    """the fifth of January twenty twenty-four"""
    spoken = f"{match['the'] or 'the '}{_nth(match['day'])} of {_month(match)}"
    return spoken + (f"{match['comma']} {year(match['year'])}" if match["year"] else "")


def _in_digits(match: re.Match[str], is_day_first: bool) -> str:
    """12/25/2023, 2023-12-25, or 12/25 after "on"."""
    month, day = int(match["first"]), int(match["second"])
    if is_day_first:
        month, day = day, month
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    spoken = f"{MONTHS[month - 1]} {_nth(str(day))}"
    return f"{spoken}, {year(match['year'])}" if match["year"] else match["before"] + spoken


def _time(match: re.Match[str]) -> str:
    """five fifteen PM, nine oh five, ten o'clock"""
    hour, minute, second, half = (match[name] for name in ("hour", "minute", "second", "half"))
    if int(hour) in (0, 24) and minute == "00" and not second and not half:
        return "twelve" if re.match(r"\s*midnight", words_after(match)) else "midnight"
    parts = [in_words(int(hour), "en")]
    if minute is not None and (int(minute) or second):
        parts.append(year(minute))
    elif not half and not re.match(r"\s*(?:noon|midnight|o['’]clock)", words_after(match)):
        parts.append("o'clock")
    if second:
        parts.append(year(second))
    if half:
        parts.append(f"{half[0].upper()}M" + stop(match))
    return " ".join(parts)


def _decade(match: re.Match[str]) -> str:
    return "two thousands" if match[1] == "00" else plural(year(match[1]))


def _dates(is_day_first: bool) -> Rules:
    return [
        # Short names of months and days only beside a number or with a stop: Jan, Mar and Sat are words, too.
        (
            re.compile(rf"\b({any_of(WEEKDAYS)})\b\.?(?=,?\s(?:{any_of(MONTH_NAMES)}\b|[0-9]))"),
            lambda m: WEEKDAYS[m[1]],
        ),
        (
            re.compile(rf"\b({any_of(WEEKDAYS)})\b\.?\s?[-–]\s?({any_of(WEEKDAYS)})\b(?:\.(?!$))?"),
            lambda m: f"{WEEKDAYS[m[1]]} to {WEEKDAYS[m[2]]}",
        ),
        # The Sun is none.
        (re.compile(rf"(?<!\b[Tt]he )\b({any_of(WEEKDAYS)})\.(?!\w)"), lambda m: WEEKDAYS[m[1]] + stop(m)),
        (re.compile(rf"\b({any_of(set(MONTH_NAMES) - set(MONTHS))})\.(?=\s)"), lambda m: MONTH_NAMES[m[1]]),
        (re.compile(rf"\b({any_of(set(WEEKDAYS.values()))})\s?[-–]\s?(?={any_of(set(WEEKDAYS.values()))})"), r"\1 to "),
        (
            re.compile(
                r"(?<![\w.,/-])(?P<year>[12][0-9]{3})([-/.])(?P<first>[01]?[0-9])\2(?P<second>[0-3]?[0-9])(?![\w/-])"
            ),
            partial(_in_digits, is_day_first=False),
        ),
        (
            re.compile(
                r"(?<![\w.,/-])(?P<first>[0-3]?[0-9])/(?P<second>[0-3]?[0-9])/(?P<year>[12][0-9]{3}|[0-9]{2})(?![\w/-])"
            ),
            partial(_in_digits, is_day_first=is_day_first),
        ),
        # With stops, the day is first in all countries.
        (
            re.compile(
                r"(?<![\w.,/-])(?P<first>[0-3]?[0-9])\.(?P<second>[01]?[0-9])\.(?P<year>[12][0-9]{3})(?![\w/-]|\.[0-9])"
            ),
            partial(_in_digits, is_day_first=True),
        ),
        (
            re.compile(
                rf"(?P<before>\b(?:[Oo]n|[Bb]y|[Ss]ince|[Uu]ntil|[Dd]ue|{any_of(set(WEEKDAYS.values()))},?) )"
                r"(?P<first>[0-3]?[0-9])/(?P<second>[0-3]?[0-9])"
                r"(?P<year>)(?![\w/-])"
            ),
            partial(_in_digits, is_day_first=is_day_first),
        ),
        # June 5-7, 2024 before 7 June; neither where the number goes on, as in "May 5:30" and "May 5%".
        (
            re.compile(
                rf"\b{_MONTH}\s{_DAY}(?:{DASH}(?P<last>[0-3]?[0-9])(?:st|nd|rd|th)?\b)?{_YEAR}(?![:%/]|[.,][0-9])"
            ),
            _month_day,
        ),
        (re.compile(rf"(?P<the>\b[Tt]he\s)?(?<![\w.,:$£€/-]){_DAY}\s(?:of\s)?{_MONTH}{_YEAR}"), _day_month),
        (re.compile(rf"\b{_MONTH},?\s(?P<year>[12][0-9]{{3}})\b"), lambda m: f"{_month(m)} {year(m['year'])}"),
        (re.compile(r"\b1(0{2}|,?0{3})s(?= of\b)"), lambda m: "hundreds" if len(m[1]) == 2 else "thousands"),
        # The 1980s and his 40s, but 30s is also thirty seconds.
        (re.compile(r"(?<![\w.])['’]?([12][0-9]{2}0)['’]?s\b"), _decade),
        (
            re.compile(
                r"(?<![\w.])(?:(?<=['’])|(?<=the )|(?<=his )|(?<=her )|(?<=their )|(?<=my )|(?<=your )|(?<=early )"
                r"|(?<=late )|(?<=mid-)|(?<=of ))([1-9]0|00)['’]?s\b"
            ),
            _decade,
        ),
        (re.compile(r"(?<!\w)['’](?=[a-z]+ies\b)"), ""),
        (re.compile(r"(?<!\w)['’]([0-9]{2})\b(?!['’])"), lambda m: year(m[1])),
    ]


_TIMES: Rules = [
    # A range first; its first time may have no half of the day: 5-6pm.
    (
        re.compile(
            rf"{_HOUR}(?P<rest>:[0-5][0-9]|)(?P<half>\s?{_HALF}|){DASH}(?=[0-9]{{1,2}}(?::[0-5][0-9]|\s?{_HALF}))"
        ),
        lambda m: (
            (m["hour"] + m["rest"] + m["half"] if m["rest"] or m["half"] else in_words(int(m["hour"]), "en")) + " to "
        ),
    ),
    (
        re.compile(rf"{_HOUR}:(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?(?!:?[0-9])(?:\s?(?P<half>{_HALF}))?"),
        _time,
    ),
    (
        re.compile(rf"{_HOUR}(?P<minute>)(?P<second>)\s?(?P<half>{_HALF})"),
        lambda m: f"{in_words(int(m['hour']), 'en')} {m['half'][0].upper()}M{stop(m)}",
    ),
]
DATES = {is_day_first: [*_dates(is_day_first), *_TIMES] for is_day_first in (False, True)}
"""Rules by whether 3/4 is the third of April."""
