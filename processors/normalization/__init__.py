"""Text normalization: what people write, such as "$5", as the words that are spoken.

One module a language, each a list of rules in order. Languages without rules of their own get their numbers from
num2words where it has them.

WeTextProcessing's runtime (wetext 0.1.8, Apache-2.0) was tried on the tables in tests/processors/normalization. It read
42 % of the English cases as expected, 79 % of the Mandarin and 76 % of the Japanese ones; it raises AssertionError on
signs such as "#", and loads the grammars of all its languages, and three compiled libraries, at import. The rules here
need num2words only (LGPL-2.1, used as a library).
"""

import importlib
import re
from functools import cache

from processors.inline import PHONES_OR_PAUSE
from processors.normalization import others
from processors.normalization.engine import Section, apply_sections
from processors.normalization.markup import drop_emoji, fold_characters, strip_markup

# Private-use characters stand for inline phones and pauses meanwhile. No rule changes these, and they have no sound of
# their own.
_PLACEHOLDERS = re.compile("[\U000f0000-\U0010ffff]")
_FIRST_PLACEHOLDER = 0xF0000
_MAX_ROUNDS = 5
# Languages with rules of their own, beside English.
_MODULES = {"de": "german", "fr": "french", "es": "spanish", "cmn": "mandarin", "zh": "mandarin", "ja": "japanese"}
_SPACE_BEFORE_MARK = re.compile(r"[^\S\n]+(?=[,.](?!\w))")


def normalize(text: str, language: str) -> str:
    """The words that a reader of `text` says, for a voice of espeak-ng such as en-us or de.

    A text of words and punctuation alone is returned unchanged, and so is the result of an earlier call. Inline phones,
    [[...]], and pauses, [pause 0.5s], are left as they are.
    """
    protected: list[str] = []

    def hide(match: re.Match[str]) -> str:
        protected.append(match[0])
        return chr(_FIRST_PLACEHOLDER + len(protected) - 1)

    spoken, written = PHONES_OR_PAUSE.sub(hide, _PLACEHOLDERS.sub("", text)), ""
    # One round is enough for nearly all texts. More of them leave nothing that a later call would change.
    for _ in range(_MAX_ROUNDS):
        if spoken == written:
            break
        written, spoken = spoken, _one_round(spoken, language)
    return _PLACEHOLDERS.sub(lambda match: protected[ord(match[0]) - _FIRST_PLACEHOLDER], spoken)


def _one_round(text: str, language: str) -> str:
    full_stop = "。" if language in ("cmn", "ja") else "."
    plain = fold_characters(strip_markup(text, full_stop))
    spoken = drop_emoji(apply_sections(language_sections(language), plain))
    # Only a text that was changed is tidied up.
    return text if spoken == text else _SPACE_BEFORE_MARK.sub("", " ".join(spoken.split()))


@cache
def language_sections(language: str) -> list[Section]:
    """The rules for a voice of espeak-ng, such as en-us or de; imported at the first use."""
    base, _, region = language.lower().partition("-")
    if base == "en":
        from processors.normalization import english

        return english.sections(is_day_first=region not in ("", "us"))
    module = _MODULES.get(base)
    return importlib.import_module(f"{__name__}.{module}").sections() if module else others.sections(base)
