"""English amounts of money, percentages and measures."""

import re
import unicodedata

from processors.normalization.engine import Rules, any_of, cardinal, digit_groups, in_words, words_before
from processors.normalization.english.numbers import DASH, FRACTION, QUANTITY, SIGN, N, fraction, number, quantity
from processors.normalization.english.words import CURRENCIES, PER, SCALES, TELEPHONE, UNITS

_SCALE = rf"(?:\s?(?P<scale>{any_of(SCALES)})\b)?"
_SYMBOLS = any_of(name for name in CURRENCIES if not name.isalpha())
_CODES = any_of(name for name in CURRENCIES if name.isalpha())
# What follows a measure that is no attribute.
_NO_NOUN = "of|and|or|in|on|at|for|to|from|per|each|a|an|is|was|off|more|less|than|by|with|when|if"


def _is_attribute(match: re.Match[str]) -> bool:
    """Whether a measure belongs to the noun after it, as in "a 5 km run": then it has no plural."""
    after = re.compile(rf"\s(?!(?:{_NO_NOUN})\b)[a-zA-Z]")
    return bool(re.search(r"\b[Aa]n?\s$", words_before(match)) and after.match(match.string, match.end()))


def _money(match: re.Match[str]) -> str:
    one, many, one_part, parts = CURRENCIES[match["unit"]]
    amount, scale, sign = match["amount"], match["scale"], "minus " if match["sign"] else ""
    name = one if _is_attribute(match) else many
    per = f" per {PER.get(match['per'], match['per'])}" if match["per"] else ""
    last = f" to {number(match['last'])}" if match["last"] else ""
    whole, _, cents = amount.replace(",", "").partition(".")
    if scale or last or len(cents) != 2 or not parts:
        name = one if amount == "1" and not scale and not last else name
        return f"{sign}{number(amount)}{last} {SCALES[scale] + ' ' if scale else ''}{name}{per}"
    spoken = []
    if int(whole or "0") or not int(cents):
        spoken.append(f"{cardinal(whole or '0', 'en')} {one if whole == '1' else name}")
    if int(cents):
        spoken.append(f"{in_words(int(cents), 'en')} {one_part if cents == '01' else parts}")
    return sign + " and ".join(spoken) + per


def _measure(match: re.Match[str]) -> str:
    one, many = UNITS[match["unit"]]
    return f"{quantity(match['amount'])} {one if match['amount'] in ('1', '-1') or _is_attribute(match) else many}"


def _fraction_of_unit(match: re.Match[str]) -> str:
    one, many = UNITS[match["unit"]]
    return f"{fraction(match)} {many if match['whole'] else one}"


def _comma_to_point(match: re.Match[str]) -> str:
    return match[0].replace(",", ".")


def _inches(match: re.Match[str]) -> str:
    # Inside a quotation, the mark ends it.
    if match.string[: match.start()].count('"') % 2:
        return match[0]
    return f"{quantity(match['amount'])} {'inch' if match['amount'] == '1' or _is_attribute(match) else 'inches'}"


def _feet(match: re.Match[str]) -> str:
    feet = f"{number(match[1])} {'foot' if match[1] == '1' else 'feet'}"
    return f"{feet} {number(match[2])} {'inch' if match[2] == '1' else 'inches'}"


MEASURES: Rules = [
    # Telephone numbers before the spaces and apostrophes between thousands.
    (
        re.compile(
            rf"\b({any_of(TELEPHONE)})(\.?:?\s)(?=[0-9(])((?:[0-9]|[ ().-](?=[ (]?[0-9])|\)(?= ?[0-9])){{7,}})(?![\w-])"
        ),
        lambda m: f"{TELEPHONE[m[1]]}{': ' if ':' in m[2] else ' '}{digit_groups(m[3], 'en')}",
    ),
    (re.compile(r"(?<![\w.,-])0[0-9]{2,4} [0-9]{3,4} [0-9]{3,4}(?![\w-])"), lambda m: digit_groups(m[0], "en")),
    (
        re.compile(
            r"(?<![\w.,'’-])(?<![0-9] )[1-9][0-9]{0,2}"
            r"(?:(?:[ \u00a0\u202f\u2009][0-9]{3}){2,}|[ ]000|[\u00a0\u202f\u2009][0-9]{3}|(?:['’][0-9]{3})+)"
            r"(?!\w|[.,-]?[ ]?[0-9]{4}|,?[0-9]| [0-9])"
        ),
        lambda m: re.sub("[^0-9]", ",", m[0]),
    ),
    # Signs that numbers need in another form: 2½, 5,50 € and 5%-10%.
    (re.compile("([0-9])?([¼-¾⅐-⅞])"), lambda m: f"{m[1] or ''} {unicodedata.normalize('NFKC', m[2])}".strip()),
    (re.compile(r"(?<![\w.,])([0-9]+),([0-9]{2})(?=\s?€)|(?<=€)([0-9]+),([0-9]{2})(?![0-9])"), _comma_to_point),
    (re.compile(r"(?<=[0-9][kKmMbBn%])\s?[-–—]\s?(?=[$£€]?[0-9])"), " to "),
    (re.compile(r"(?<=[0-9])(\s?(?:mm|cm|m|km|in|ft)\b)?\s[x×]\s(?=[.0-9]+\s?(?:mm|cm|m|km|in|ft)\b)"), r"\1 by "),
    (
        re.compile(
            rf"(?P<sign>{SIGN})(?<![\w$£€])(?P<unit>{_SYMBOLS})\s?(?P<amount>{N})"
            rf"(?:{DASH}(?:{_SYMBOLS})?(?P<last>{N}))?{_SCALE}(?:\s?/\s?(?P<per>[a-z]+)\b)?"
        ),
        _money,
    ),
    (
        re.compile(
            rf"(?P<sign>{SIGN})(?<![\w.,])(?P<amount>{N})(?:{DASH}(?P<last>{N}))?{_SCALE}\s?"
            rf"(?P<unit>[€£¥₹]|{_CODES}\b)(?:\s?/\s?(?P<per>[a-z]+)\b)?"
        ),
        _money,
    ),
    (re.compile(rf"\b(?P<unit>{_CODES})\s(?P<sign>)(?P<amount>{N})(?P<last>){_SCALE}(?P<per>)"), _money),
    (re.compile(rf"({QUANTITY})\s?¢"), lambda m: f"{quantity(m[1])} {'cent' if m[1] == '1' else 'cents'}"),
    (re.compile(rf"({QUANTITY})\s?%"), lambda m: f"{quantity(m[1])} percent"),
    (re.compile(rf"({QUANTITY})\s?‰"), lambda m: f"{quantity(m[1])} per thousand"),
    (
        re.compile(
            r"(?<![\w.,])([0-9]{1,2})\s?(?:['′’]\s?|(?:ft|feet)\.?\s)([0-9]{1,2})(?:\s?(?:\"|″|”|''|in\b\.?(?!\s[a-z]+s\b)))?(?!\w|\.[0-9])"
        ),
        _feet,
    ),
    (re.compile(rf"(?P<amount>{QUANTITY})(?:\"|″)(?=\s\w|\s*$|[,.;)])"), _inches),
    (re.compile(rf"{FRACTION}\s?(?P<unit>{any_of(UNITS)})\b\.?"), _fraction_of_unit),
    (re.compile(rf"(?P<amount>{QUANTITY})\s?(?P<unit>{any_of(UNITS)})(?![\w²³/°'’])(?:\.(?=\s[a-z]|,))?"), _measure),
    (re.compile(r"(?<=[a-zA-Z0-9)])²(?![⁰-⁹])"), " squared"),
    (re.compile(r"(?<=[a-zA-Z0-9)])³(?![⁰-⁹])"), " cubed"),
    (re.compile("[⁰¹²³⁴-⁹]+"), lambda m: f" to the power of {cardinal(unicodedata.normalize('NFKC', m[0]), 'en')}"),
    (
        re.compile(rf"({QUANTITY})(?=\s(?:thousand|million|billion|trillion|hundred|percent)\b)"),
        lambda m: quantity(m[1]),
    ),
    (re.compile(rf"(?<![\w.,])({N})\s?(bn|mn|tn)\b"), lambda m: f"{number(m[1])} {SCALES[m[2]]}"),
]
