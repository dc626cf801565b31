"""Languages without rules of their own: their numbers by num2words, where it has the language."""

import re

from num2words import CONVERTER_CLASSES

from processors.normalization.engine import Section, cardinal

# Languages that write a decimal comma and a stop between thousands.
_COMMA = "ca|cs|da|fi|hu|id|is|it|lt|lv|nl|no|nb|pl|pt|ro|ru|sk|sl|sr|sv|tr|uk|vi|az|be"
_NAMES = {"nb": "no"}


def sections(base: str) -> list[Section]:
    """Integers and the whole numbers of decimals; all else is left to the phonemizer."""
    language = _NAMES.get(base, base)
    if language not in CONVERTER_CLASSES:
        return []
    separator = "." if base in _COMMA.split("|") else ","
    thousands = re.compile(rf"(?<![\w.,])[0-9]{{1,3}}(?:[{separator}\u00a0\u202f][0-9]{{3}})+(?![\w]|[.,][0-9])")
    return [
        Section(
            re.compile("[0-9]"),
            [
                (thousands, lambda match: cardinal(re.sub("[^0-9]", "", match[0]), language)),
                (re.compile(r"(?<![\w.,:/-])[0-9]+(?![\w]|[.,:/-][0-9])"), lambda match: cardinal(match[0], language)),
            ],
        )
    ]
