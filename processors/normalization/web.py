"""Addresses of the web, mail addresses, hashtags and handles."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from processors.normalization.engine import Rules

_TOP_LEVEL = (
    "com|org|net|edu|gov|mil|int|info|biz|name|io|ai|app|dev|co|me|tv|xyz|tech|online|site|store|blog|shop|cloud|eu|uk"
    "|us|ca|au|nz|ie|de|at|ch|fr|be|lu|nl|es|pt|it|mx|ar|cl|pe|br|jp|cn|hk|tw|kr|in|ru|ua|pl|cz|sk|hu|ro|gr|tr|se|no"
    "|dk|fi|is|za|il|sg|my|id|th|vn|ph"
)
_HOST = rf"(?:[\w-]+\.)+(?:{_TOP_LEVEL})"
# A path ends before the mark that ends a sentence.
_PATH = r"(?:[/?#][\w\-./?=&%+~#:@]*[\w/=]|/)?"
_WORD_PARTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-zà-öø-ÿ]+|[A-Z]+|[0-9]+|[^\W\d_A-Za-zà-öø-ÿ]+")


# Names that have no vowel, such as bbc or html, and a few others, are spelled.
_SPELLED = re.compile(r"[b-df-hj-np-tv-xz]{2,}|edu|io|id|mit|ucla|aol|api|faq|ibm|ai", re.IGNORECASE)
# Ends of hosts that are read as words; other short ones are spelled.
_READ = "com|org|net|info|co|gov|mil|app|blog|shop|online|site|me"


@dataclass(frozen=True)
class WebWords:
    """How a language reads addresses: their signs, and parts that are spelled, letter by letter.

    Parts that match `read` are never spelled. Without a word for hashtags, their sign stays.
    """

    signs: Mapping[str, str]
    hashtag: str
    spell: Callable[[str], str]
    read: str = _READ


def web_rules(words: WebWords) -> Rules:
    """Rules that read addresses. Those with a scheme come first, as they may end in anything."""

    def read(address: str) -> str:
        parts = re.findall(r"[^\W_]+|[^\w\s]|_", re.sub(r"^(?:\w+://)?(?:www\.)?", "", address).rstrip("/"))
        spoken = []
        for before, part in zip([None, *parts], parts, strict=False):
            if not part.isalnum():
                spoken.append(words.signs.get(part, ""))
            elif re.fullmatch(words.read, part.lower()) or not (_SPELLED.fullmatch(part) or _is_country(before, part)):
                spoken.append(part)
            else:
                spoken.append(words.spell(part))
        return " ".join(" ".join(spoken).split())

    def hashtag(tag: re.Match[str]) -> str:
        return f"{words.hashtag} {' '.join(_WORD_PARTS.findall(tag[1]))}"

    def handle(match: re.Match[str]) -> str:
        name = match[1].replace("_", f" {words.signs['_']} ")
        return f"{words.signs['@']} {name}"

    return [
        # ASCII ends an address where Chinese or Japanese goes on without a space.
        (re.compile(r"\b(?:https?|ftp)://[^\s<>\"\u3000-\uffef]*[\w/]", re.ASCII), lambda match: read(match[0])),
        (re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[\w-]+\.)+[a-z]{2,}\b", re.ASCII | re.IGNORECASE), lambda m: read(m[0])),
        (
            re.compile(rf"(?<![\w.@-])(?:www\.(?:[\w-]+\.)+[a-zA-Z]{{2,}}|{_HOST})\b(?!\.\w){_PATH}", re.ASCII),
            lambda match: read(match[0]),
        ),
        *([(re.compile(r"(?<![\w&#])#(\w*[^\W\d_]\w*)"), hashtag)] if words.hashtag else []),
        (re.compile(r"(?<![\w.@])@(\w*[^\W\d_]\w*)"), handle),
    ]


def _is_country(before: str | None, part: str) -> bool:
    return before == "." and len(part) == 2 and part.isascii()
