"""English addresses of the web, and the signs that are left after the numbers."""

import re
from collections.abc import Iterator

from processors.normalization.engine import Rule, Rules
from processors.normalization.english.words import spell
from processors.normalization.web import WebWords, web_rules

# Signs, what they say between two operands, and before a number alone, as in "<5 people".
_COMPARISONS = {
    "<=|=<|≤|⩽": ("is less than or equal to", "at most"),
    ">=|≥|⩾": ("is greater than or equal to", "at least"),
    "<": ("is less than", "less than"),
    ">": ("is greater than", "more than"),
}


def _comparisons() -> Iterator[Rule]:
    for signs, (between, alone) in _COMPARISONS.items():
        # The left operand is a number or one letter. Tags and arrows have other neighbours.
        left, right = r"(?:(?<=[0-9)%])|(?<=\b[A-Za-z]))", r"(?=-?(?:[.0-9$£€(]|[A-Za-z]\b))"
        yield re.compile(rf"{left}(\s?)(?:{signs})\1{right}"), f" {between} "
        yield re.compile(rf"(?<![<>=!/-])(?:{signs})\s?(?=-?[.0-9$£€]*[0-9])"), f"{alone} "


ADDRESSES: Rules = [
    (re.compile(r"\bI\s?[❤♥🧡💛💚💙💜🖤]\ufe0f?\s?"), "I love "),
    *web_rules(
        WebWords(
            signs={
                ".": "dot",
                "/": "slash",
                "-": "dash",
                "_": "underscore",
                "@": "at",
                "?": "question mark",
                "=": "equals",
                "&": "and",
                "%": "percent",
                "+": "plus",
            },
            hashtag="hashtag",
            spell=spell,
        )
    ),
    # Signs whose meaning depends on the digits after them.
    # A heart, which is no comparison.
    (re.compile(r"(?<!\S)<3(?!\S)(?!\s(?:seconds|minutes|hours|days|weeks|months|years|people|times|percent)\b)"), ""),
    (re.compile(r"\s?(?:!=|=/=|≠)\s?"), " is not equal to "),
    *_comparisons(),
    (re.compile(r"#(?=[0-9])"), "number "),
    (re.compile(r"[~≈]\s?(?=[.0-9$£€])"), "about "),
    (re.compile(r"±\s?(?=[.0-9])"), "plus or minus "),
    (re.compile(r"§§?\s?(?=[0-9])"), "section "),
    (re.compile(r"(?<=\w)\s?\^\s?(?=-?[0-9])"), " to the power of "),
    (re.compile(r"(?<=[0-9])\s?×\s?(?=[0-9])(?=[^=]*=)"), " times "),
    (re.compile(r"(?:©|\([cC]\))\s?(?=[12][0-9]{3})"), "copyright "),
]
SYMBOLS: Rules = [
    (re.compile(r"(?<!\bAT)\s?&\s?"), " and "),
    (re.compile(r"\s*=+\s*"), " equals "),
    (re.compile(r"(?<=\w)\s+\+\s+(?=\w)|(?<=\w)\+(?=\w)"), " plus "),
    (re.compile(r"\s?÷\s?"), " divided by "),
    (re.compile(r"\s?[×✕]\s?"), " times "),
    (re.compile(r"(?<=\w)\s>\s(?=\w)"), " is greater than "),
    (re.compile(r"(?<=\w)\s<\s(?=\w)"), " is less than "),
    (re.compile(r"\s*(?:→|->|=>)\s*"), " to "),
    (re.compile(r"\s@\s"), " at "),
    (re.compile(r"©"), "copyright"),
    (re.compile(r"°"), " degrees "),
    (re.compile(r"%"), " percent"),
    (re.compile(r"#"), " hash "),
    (re.compile(r"[®™℠†‡¶|\\^~*_`<>]"), " "),
    (re.compile(r"(?<=\w)/(?=\w)"), " "),
]
