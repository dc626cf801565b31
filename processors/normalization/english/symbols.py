"""English addresses of the web, and the signs that are left after the numbers."""

import re

from processors.normalization.engine import Rules
from processors.normalization.english.words import spell
from processors.normalization.web import WebWords, web_rules

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
