"""The interface of text frontends, and the text processing that they share."""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence

from processors.symbols import WORD_BOUNDARY, join_words
from utils.errors import UserError

# Punctuation of other scripts, mapped to marks that espeak-ng's voices know. NFKC folds full-width ASCII before.
_SAME_MARKS = str.maketrans(
    {
        **dict.fromkeys("。।॥۔։።", "."),
        **dict.fromkeys("、،､﹐፣", ","),
        **dict.fromkeys("؛፤", ";"),
        **dict.fromkeys("؟፧", "?"),
        **dict.fromkeys("「」『』《》〈〉„‟", '"'),
        **dict.fromkeys("【〔", "("),
        **dict.fromkeys("】〕", ")"),
    }
)
_FULL_WIDTH = re.compile("[\uff01-\uff5e\uff61-\uff65]")
MARKS = ';:!?¡¿—…"«»(){}[],.'
"""The punctuation marks that are phones, after `normalize_text`."""
_OPENING_MARKS = "([{«¡¿"
_SHOWN_LETTERS = 5


class Phonemizer(ABC):
    """A text frontend. It must be picklable, as stage 1 uses it in worker processes.

    Raises UserError if it does not have `language`.
    """

    @abstractmethod
    def __init__(self, language: str) -> None: ...

    @abstractmethod
    def phonemize(self, texts: Sequence[str]) -> list[list[str]]:
        """The phones of each text, with `_` between words and punctuation marks as phones.

        Result i depends on texts[i] alone. A text without words gives its punctuation marks, or an empty list.
        """

    @property
    def long_phones(self) -> Collection[str]:
        """The phones of several letters that `phonemize` gives, to read inline phones without a symbol table."""
        return ()

    def reader(self, language: str) -> "Phonemizer":
        """What reads texts in a language: itself, unless it is for several languages."""
        return self

    def unreadable(self, text: str) -> list[str]:
        """The letters of a text that the frontend cannot pronounce, in order of appearance."""
        return []

    def refusal(self, name: str, text: str) -> str | None:
        """Why a text called `name` cannot be read, as an error line with the letters' names; None if it can."""
        letters = self.unreadable(text)
        if not letters:
            return None
        shown = ", ".join(_described(letter, text) for letter in letters[:_SHOWN_LETTERS])
        more = ", ..." if len(letters) > _SHOWN_LETTERS else ""
        return f"{name} has letters that cannot be read in its language: {shown}{more}; is it in another language?"


def join_words_and_marks(pieces: Iterable[Sequence[str]]) -> list[str]:
    """The phones of words and single marks in order: an opening mark is joined to the word after it, others to the one
    before. Of straight quotes, the first opens, the second closes, and so on.
    """
    words: list[list[str]] = []
    opening: list[str] = []
    num_quotes = 0
    for piece in pieces:
        mark = piece[0] if len(piece) == 1 and piece[0] in MARKS else ""
        if not mark:
            words.append([*opening, *piece])
            opening = []
            continue
        opens = mark in _OPENING_MARKS or (mark == '"' and num_quotes % 2 == 0)
        num_quotes += mark == '"'
        if opens or opening or not words:
            opening.append(mark)
        else:
            words[-1].append(mark)
    return join_words([*words, opening])


def check_language(phone_extractor: str, language: str, only: str) -> None:
    """Raises UserError if a frontend for one language is to read another."""
    if language != only:
        raise UserError(
            f"preprocess.phone_extractor: {phone_extractor} reads {only} alone, and preprocess.language is {language}; "
            "auto takes the frontend of each language"
        )


class MissingExtraError(UserError):
    """The libraries of a frontend, which are optional, are not installed."""


def missing_extra(phone_extractor: str, extra: str, error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f'preprocess.phone_extractor: {phone_extractor} needs {error.name}; install it with pip install ".[{extra}]"'
    )


def _described(letter: str, text: str) -> str:
    """A letter with its Unicode name, and the line that it is first in, if the text has several."""
    name = unicodedata.name(letter, f"U+{ord(letter):04X}")
    # Normalization may have made the letter, so that the text itself does not have it.
    before, found, _ = text.strip().partition(letter)
    line = f", line {before.count(chr(10)) + 1}" if found and "\n" in text.strip() else ""
    return f"{letter} ({name}{line})"


def normalize_text(text: str) -> str:
    """One line of composed characters with single spaces, without control characters, with straight double quotes."""
    # Espeak-ng reads a letter with a combining accent as another word, and ends a text at its first NUL.
    text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode())
    text = "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)
    text = _FULL_WIDTH.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text).translate(_SAME_MARKS)
    return " ".join(text.replace("“", '"').replace("”", '"').replace(WORD_BOUNDARY, " ").split())
