"""Text to phones: lexicon, normalization and inline phones, around a text frontend. The one way in all stages."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Protocol

from config.schema import PreprocessSettings
from processors.frontends import build_phonemizer
from processors.frontends.base import Phonemizer
from processors.inline import find_pauses, split_at_pauses
from processors.languages import AUTO, language_name
from processors.lexicon import Lexicon
from processors.normalization import normalize
from processors.normalization.engine import any_of
from processors.symbols import SymbolTable, join_words, language_symbol
from utils.errors import UserError

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

    Phones in double brackets, such as [[həˈloʊ]], are taken as they are written. A pause, [pause 0.5s], is a word
    boundary, as silence has no phones, and each side of it is read as a text of its own. `phones` are those of the
    symbol table, if there is one already; they decide whether tʃ is one phone or two. With `has_symbol` the phones of a
    text begin with a symbol of the language.
    """

    def __init__(
        self,
        frontend: Phonemizer,
        language: str,
        normalizes: bool = False,
        lexicon: Lexicon | None = None,
        phones: Sequence[str] = (),
        has_symbol: bool = False,
    ) -> None:
        self._frontend = frontend
        self._language = language_name(language)
        self._start = [language_symbol(self._language)] if has_symbol else []
        self._normalizes = normalizes
        self._lexicon = lexicon
        # Phones of Mandarin have the tone in them: ao3.
        known = phones or frontend.long_phones
        long_phones = [phone for phone in known if len(phone) > 1 and phone.isalnum() and phone[0].isalpha()]
        pattern = any_of(long_phones).replace("əl", _SYLLABIC_L) if long_phones else "(?!)"
        self._phone = re.compile(f"{pattern}|{_LONE_PHONE}")

    @classmethod
    def from_settings(
        cls, settings: PreprocessSettings, table: SymbolTable | None = None, language: str | None = None
    ) -> "TextToPhones":
        """For the language of the settings, or for one of several.

        Raises UserError if the frontend does not have the language, or the lexicon cannot be read.
        """
        frontend = build_phonemizer(settings.phone_extractor, language or settings.language)
        # Of several languages, the table has the phones of others as well.
        phones = () if table is None or language is not None else table.phones
        normalizes = settings.normalize_text == "auto"
        lexicon = Lexicon.from_settings(settings)
        return cls(frontend, language or settings.language, normalizes, lexicon, phones, language is not None)

    def rewrite(self, text: str) -> str:
        """The text after the lexicon and normalization, for the frontend, with inline phones and pauses in it."""
        pauses = [text[pause.start : pause.end] for pause in find_pauses(text)]
        if not pauses:
            return self._rewrite(text)
        stretches = [self._rewrite(stretch).strip() for stretch in split_at_pauses(text)]
        shown = [item for pair in zip(stretches, [*pauses, ""], strict=True) for item in pair]
        return " ".join(filter(None, shown))

    def phonemize(self, texts: Sequence[str]) -> list[list[str]]:
        """Raises UserError if a pause has no valid length."""
        # For each stretch between pauses: plain text, inline phones, their ending, plain text, ...
        pieces = [[_INLINE.split(self._rewrite(stretch)) for stretch in split_at_pauses(text)] for text in texts]
        all_plain = [piece for stretches in pieces for stretch in stretches for piece in stretch[::3]]
        plain = iter(self._frontend.phonemize(all_plain))
        return [
            [*self._start, *join_words([self._joined(stretch, plain) for stretch in stretches])] for stretches in pieces
        ]

    def refusal(self, name: str, text: str) -> str | None:
        try:
            return super().refusal(name, text)
        except UserError as error:
            return f"{name}: {error}"

    def unreadable(self, text: str) -> list[str]:
        """Raises UserError if a pause has no valid length."""
        stretches = [_INLINE.split(self._rewrite(stretch)) for stretch in split_at_pauses(text)]
        return self._frontend.unreadable(" ".join(piece for stretch in stretches for piece in stretch[::3]))

    def _rewrite(self, stretch: str) -> str:
        if self._lexicon is not None:
            stretch = self._lexicon.apply(stretch)
        return normalize(stretch, self._language) if self._normalizes else stretch

    def _joined(self, pieces: list[str], plain: Iterator[list[str]]) -> list[str]:
        """The phones of a stretch; takes the frontend's output for each piece of plain text from the iterator."""
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


class TextReaders(Protocol):
    """What reads the texts of an experiment. Any `Phonemizer` is one, for texts of one language."""

    def reader(self, language: str) -> Phonemizer: ...


class MultilingualReaders:
    """Texts of several languages: `build` makes the reader of each when it is first needed."""

    def __init__(self, build: Callable[[str], Phonemizer]) -> None:
        self._build = cache(build)

    def reader(self, language: str) -> Phonemizer:
        """Raises UserError if the language is not known or cannot be read."""
        return self._build(language)


def build_readers(settings: PreprocessSettings, table: SymbolTable | None = None) -> TextReaders:
    """What reads texts as the settings say. Raises UserError if a frontend or the lexicon cannot be loaded."""
    if settings.language == AUTO:
        return MultilingualReaders(partial(TextToPhones.from_settings, settings, table))
    return TextToPhones.from_settings(settings, table)


def phonemize_each(readers: TextReaders, texts: Sequence[str], languages: Sequence[str]) -> list[list[str]]:
    """The phones of each text in its language, with one call of the frontend for all texts of a language."""
    phones: dict[int, list[str]] = {}
    for language in dict.fromkeys(languages):
        indexes = [index for index, own in enumerate(languages) if own == language]
        found = readers.reader(language).phonemize([texts[index] for index in indexes])
        phones.update(zip(indexes, found, strict=True))
    return [phones[index] for index in range(len(texts))]


def _possessive(phones: Sequence[str]) -> list[str]:
    """The phones of 's after a word of these phones."""
    last = phones[-1] if phones else ""
    if last.endswith(("s", "z", "ʃ", "ʒ")):
        return ["ᵻ", "z"]
    return ["s"] if last in ("p", "t", "k", "f", "θ") else ["z"]
