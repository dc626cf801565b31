"""What the rules of Mandarin and Japanese share: numbers in Chinese characters."""

import re

from processors.normalization.engine import MAX_DIGITS

DIGITS = "零一二三四五六七八九"
N = r"(?<![0-9])(?<![0-9][.,])(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?![0-9])(?:\.[0-9]+)?"
"""A pattern: 12 or 1,234.5. The text around it has no spaces, so the pattern itself says where a number begins."""
SIGN = r"(?:(?<![0-9A-Za-z.,)])[-−–](?=[0-9$¥€£]))?"


def one_by_one(text: str, digits: str = DIGITS) -> str:
    """Each digit of a text by its name."""
    return "".join(digits[int(character)] for character in text if character.isdigit())


def groups_of_four(digits: str) -> list[int]:
    """10000 as [1, 0]: numbers are named in groups of four digits."""
    groups: list[int] = []
    while digits:
        digits, group = digits[:-4], digits[-4:]
        groups.insert(0, int(group))
    return groups


def split_number(text: str) -> tuple[bool, str, str]:
    """Whether a number is negative, its digits before the point, and those after it."""
    whole, _, decimals = text.lstrip("-−–").replace(",", "").partition(".")
    return text[0] in "-−–", whole, decimals


def is_code(whole: str) -> bool:
    """Whether a number is read digit by digit: it begins with a zero, or is too long."""
    return len(whole) > MAX_DIGITS or (len(whole) > 1 and whole[0] == "0")


def names_with_digits() -> tuple[re.Pattern[str], str]:
    """A rule for Latin letters and digits: COVID-19 apart, A4 together."""
    return re.compile(r"(?<=[A-Za-z]{2})-(?=[0-9])"), " "
