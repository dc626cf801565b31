"""Mandarin as initials and finals with tones, by pypinyin, in the words that rjieba finds."""

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence

from processors.frontends.base import (
    MARKS,
    Phonemizer,
    check_language,
    join_words_and_marks,
    missing_extra,
    normalize_text,
)
from processors.frontends.tone_sandhi import Syllable, apply_tone_sandhi

try:
    import rjieba
    from pypinyin import Style, lazy_pinyin
    from pypinyin.constants import PINYIN_DICT
    from pypinyin.contrib.tone_convert import to_finals, to_initials
except ImportError as error:
    raise missing_extra("pypinyin", "zh", error) from error

_MARK_OR_CLAUSE = re.compile(rf"[{re.escape(MARKS)}]|[^\s{re.escape(MARKS)}]+")
_INITIALS = "b p m f d t n l g k h j q x zh ch sh r z c s"
_FINALS = (
    "a o e i u v ai ei ao ou an en ang eng ong ia ie iao iou ian in iang ing iong ua uo uai uei uan uen uang ueng ve "
    "van vn er"
)


class MandarinPhonemizer(Phonemizer):
    """A syllable is its initial, if it has one, and its final with the tone: 你好 is n i2 h ao3.

    Tones are those that are spoken: third tones, 不 and 一 change with their neighbours. The neutral tone is 5.

    Raises UserError if the language is not Mandarin.
    """

    def __init__(self, language: str) -> None:
        check_language("pypinyin", language, "cmn")

    def phonemize(self, texts: Sequence[str]) -> list[list[str]]:
        return [join_words_and_marks(_words_and_marks(text)) for text in texts]

    @property
    def long_phones(self) -> Collection[str]:
        return [*_INITIALS.split(), *(f"{final}{tone}" for final in _FINALS.split() for tone in "12345")]

    def unreadable(self, text: str) -> list[str]:
        # Digits are among them: pypinyin does not read them.
        letters = [letter for letter in dict.fromkeys(normalize_text(text)) if unicodedata.category(letter)[0] in "LN"]
        return [letter for letter in letters if ord(letter) not in PINYIN_DICT]

    def __reduce__(self) -> tuple[type["MandarinPhonemizer"], tuple[str]]:
        return MandarinPhonemizer, ("cmn",)


def _words_and_marks(text: str) -> Iterator[list[str]]:
    """The phones of each word, and each mark by itself."""
    for piece in _MARK_OR_CLAUSE.findall(normalize_text(text)):
        if piece in MARKS:
            yield [piece]
            continue
        words = [syllables for word in rjieba.cut(piece) if (syllables := _syllables(word))]
        apply_tone_sandhi([syllable for word in words for syllable in word])
        for word in words:
            yield [phone for syllable in word for phone in _phones(syllable.pinyin)]


def _syllables(word: str) -> list[Syllable]:
    """The syllables of a word's characters as pypinyin reads them; other characters are left out."""
    characters = [character for character in word if ord(character) in PINYIN_DICT]
    pinyin = lazy_pinyin("".join(characters), style=Style.TONE3, neutral_tone_with_five=True)
    num = len(characters)
    pairs = zip(characters, pinyin, strict=True)
    return [Syllable(*pair, num, number == num) for number, pair in enumerate(pairs, start=1)]


def _phones(syllable: str) -> list[str]:
    sound, tone = syllable[:-1], syllable[-1]
    initial, final = to_initials(sound, strict=True), to_finals(sound, strict=True, v_to_u=False)
    # Interjections such as 嗯, n2, have no final.
    return [phone for phone in (initial, final + tone) if phone] if final else [syllable]
