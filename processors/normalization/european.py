"""What the rules of German, French and Spanish share: numbers with a decimal comma, and what no rule has read."""

import re
from collections.abc import Mapping

from processors.normalization.engine import MAX_DIGITS, Rule, Rules, cardinal, in_words, one_by_one, words_after

N = "(?:[0-9]{1,3}(?:[.\u00a0\u202f ][0-9]{3})+(?![0-9])|[0-9]+)(?:,[0-9]+)?"
"""A pattern: 12 or 1.234,5 or 1 234,5."""
SIGN = r"(?:(?<![\w.,)\]'’%°$£€-])[-−–](?=[0-9$£€]))?"
DASH = r"\s?[-–—−]\s?"
QUANTITY = rf"{SIGN}(?<![\w.,/]){N}(?:{DASH}{N}(?![.,]?[0-9]))?"
"""A pattern: a number or a range of two."""
FRACTION = r"(?<![\w./,])(?:(?P<whole>[0-9]+) )?(?P<top>[0-9]+)[/⁄](?P<bottom>[0-9]+)(?![\w/]|[.,][0-9])"


def split_number(text: str) -> tuple[bool, str, str]:
    """Whether a number is negative, its digits before the comma, and those after it."""
    whole, _, decimals = text.lstrip("-−–").partition(",")
    return text[0] in "-−–", re.sub("[^0-9]", "", whole), decimals


def split_range(text: str) -> list[str]:
    """The one or two numbers of a quantity; the first with its sign."""
    sign, rest = (text[0], text[1:]) if text[0] in "-−–" else ("", text)
    first, *last = re.split(DASH, rest)
    return [sign + first, *last]


def pairs(decimals: str, language: str) -> str:
    """Decimals as French and Spanish read them: up to two digits as a number, zeros and more digits one by one."""
    zeros = len(decimals) - len(decimals.lstrip("0"))
    rest = decimals[zeros:]
    spoken = [one_by_one("0" * zeros, language)] if zeros else []
    if rest:
        spoken.append(cardinal(rest, language) if len(rest) <= 2 else one_by_one(rest, language))
    return " ".join(spoken)


def ordinal(digits: str, language: str) -> str:
    return in_words(int(digits[-MAX_DIGITS:]), language, "ordinal")


def abbreviations(table: Mapping[str, str], before: str = r"(?<![\w.])", after: str = r"(?!\w)") -> Rule:
    """A rule for abbreviations, which the table has without their last stop and without spaces: `z.B`.

    Lower-case ones are found with a capital, too. The stop stays at the end of the text, as it is that of the sentence.
    """
    table = {name[0].upper() + name[1:]: full[0].upper() + full[1:] for name, full in table.items()} | dict(table)
    short = "|".join(re.escape(name).replace(r"\.", r"\.\s?") for name in sorted(table, key=len, reverse=True))

    def in_full(match: re.Match[str]) -> str:
        is_end = not words_after(match).strip()
        return table[re.sub(r"\s", "", match[1])] + ("." if is_end else "")

    return re.compile(rf"{before}({short})\.{after}"), in_full


def acronyms(names: str) -> Rule:
    """A rule for acronyms that espeak-ng reads as words: as letters apart. Not in a text of capitals only."""
    pattern = re.compile(rf"\b(?:{names})\b")
    return pattern, lambda match: match[0] if match.string.isupper() else " ".join(match[0])


def ranges(to: str, times: str) -> Rules:
    """Rules for ranges of amounts that have signs, such as 10 % - 20 %, for sizes, and for a point as in English."""
    return [
        (re.compile(r"(?<=[0-9][%€h])\s?[-–—]\s?(?=[0-9])|(?<=[0-9]\s[%€])\s?[-–—]\s?(?=[0-9])"), f" {to} "),
        (re.compile(r"(?<=:[0-9]{2})\s?[-–—]\s?(?=[0-9]{1,2}:)"), f" {to} "),
        (re.compile(r"(?<=[0-9])\s?[x×]\s?(?=[0-9])|(?<=[0-9])[x×](?=\s)"), f" {times} "),
    ]


def names_with_digits() -> Rule:
    """A rule that sets letters and digits of a name apart, such as MP3 and A4."""
    return re.compile(r"(?<=[^\W\d_])-?(?=[0-9])|(?<=[0-9])-?(?=[^\W\d_])"), " "


def leftovers(language: str) -> Rules:
    """Digits that no other rule has read, and signs that would be read by their English names."""
    return [
        names_with_digits(),
        (re.compile("[0-9]+"), lambda match: f" {cardinal(match[0], language)} "),
        (re.compile("[⁰¹²³⁴-⁹¼-¾⅐-⅞]"), ""),
        (re.compile(r"[®™℠†‡¶|\\^~*_`<>#]"), " "),
        (re.compile(r"(?<=\w)/(?=\w)"), " "),
    ]
