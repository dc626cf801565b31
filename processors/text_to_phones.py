"""Text to phones: lexicon, normalization and inline phones, around a text frontend. The one way in all stages."""

import re
from collections.abc import Iterator, Sequence

from config.schema import PreprocessSettings
from processors.frontends import build_phonemizer
from processors.frontends.base import Phonemizer
from processors.lexicon import Lexicon
from processors.normalization import normalize
from processors.normalization.engine import any_of
from processors.symbols import SymbolTable, join_words

# Inline phones, with the ending of an English possessive, which belongs to their word.
_INLINE = re.compile(r"\[\[([^\[\]]*)\]\]((?:['’]s\b)?)")
# Symbol tables have no ties, and no stress. Stress and marks between syllables still separate phones.
_TIES = str.maketrans("", "", "\u035c\u0361\u203f")
_SEPARATORS = "ˈˌ'’.|-"
# A letter with its modifier letters, such as a length mark; combining marks are phones, as espeak-ng's are here.
_LONE_PHONE = r"[ˈˌ]|\w[\u02b0-\u02c7\u02cb\u02cd-\u02ff\u1d2c-\u1d6a]*|[^\w\s]"
# A syllabic l is none before a vowel.
_SYLLABIC_L = "əl(?![aeiouyæɑɐɒɔəɚɛɜɪʊʌᵻ])"


class TextToPhones(Phonemizer):
    """A text frontend that first does what `preprocess.lexicon` and `preprocess.normalize_text` ask.

    Phones in double brackets, such as [[həˈloʊ]], are taken as they are written. `phones` are those of the symbol
    table, if there is one already; they decide whether tʃ is one phone or two.
    """

    def __init__(
        self,
        frontend: Phonemizer,
        language: str,
        normalizes: bool = False,
        lexicon: Lexicon | None = None,
        phones: Sequence[str] = (),
    ) -> None:
        self._frontend = frontend
        self._language = language
        self._normalizes = normalizes
        self._lexicon = lexicon
        long_phones = [phone for phone in phones or frontend.long_phones if len(phone) > 1 and phone.isalpha()]
        pattern = any_of(long_phones).replace("əl", _SYLLABIC_L) if long_phones else "(?!)"
        self._phone = re.compile(f"{pattern}|{_LONE_PHONE}")

    @classmethod
    def from_settings(cls, settings: PreprocessSettings, table: SymbolTable | None = None) -> "TextToPhones":
        """Raises UserError if the frontend does not have the language, or the lexicon cannot be read."""
        frontend = build_phonemizer(settings.phone_extractor, settings.language)
        phones = () if table is None else table.phones
        normalizes = settings.normalize_text == "auto"
        return cls(frontend, settings.language, normalizes, Lexicon.from_settings(settings), phones)

    def rewrite(self, text: str) -> str:
        """The text that the frontend reads: after the lexicon and normalization, with inline phones in it."""
        if self._lexicon is not None:
            text = self._lexicon.apply(text)
        return normalize(text, self._language) if self._normalizes else text

    def phonemize(self, texts: Sequence[str]) -> list[list[str]]:
        # Plain text, inline phones, their ending, plain text, ...
        pieces = [_INLINE.split(self.rewrite(text)) for text in texts]
        plain = iter(self._frontend.phonemize([piece for text_pieces in pieces for piece in text_pieces[::3]]))
        return [self._joined(text_pieces, plain) for text_pieces in pieces]

    def unreadable(self, text: str) -> list[str]:
        return self._frontend.unreadable(" ".join(_INLINE.split(self.rewrite(text))[::3]))

    def _joined(self, pieces: list[str], plain: Iterator[list[str]]) -> list[str]:
        """The phones of a text; takes the frontend's output for each piece of plain text from the iterator."""
        words = [next(plain)]
        for index in range(1, len(pieces), 3):
            # Without white space between them, inline phones and their neighbours are one word.
            inline = self._inline_phones(pieces[index], pieces[index + 1])
            self._append(words, inline, is_new_word=pieces[index - 1][-1:].isspace())
            self._append(words, next(plain), is_new_word=pieces[index + 2][:1].isspace())
        return join_words(words)

    @staticmethod
    def _append(words: list[list[str]], phones: list[str], is_new_word: bool) -> None:
        if is_new_word:
            words.append(phones)
        else:
            words[-1] = words[-1] + phones

    def _inline_phones(self, inline: str, ending: str) -> list[str]:
        words = [self._phone.findall(word) for word in inline.translate(_TIES).split()]
        phones = join_words([[phone for phone in word if phone not in _SEPARATORS] for word in words])
        return phones + _possessive(phones) if ending and self._language.startswith("en") else phones


def _possessive(phones: Sequence[str]) -> list[str]:
    """The phones of 's after a word of these phones."""
    last = phones[-1] if phones else ""
    if last.endswith(("s", "z", "ʃ", "ʒ")):
        return ["ᵻ", "z"]
    return ["s"] if last in ("p", "t", "k", "f", "θ") else ["z"]
