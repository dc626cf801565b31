"""The interface of text frontends, and the text processing that they share."""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from processors.symbols import WORD_BOUNDARY

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

    def unreadable(self, text: str) -> list[str]:
        """The letters of a text that the frontend cannot pronounce, in order of appearance."""
        return []

    def refusal(self, name: str, text: str) -> str | None:
        """Why a text called `name` cannot be read, as an error line; None if it can."""
        letters = self.unreadable(text)
        if not letters:
            return None
        shown = ", ".join(letters[:5]) + (", ..." if len(letters) > 5 else "")
        return f"{name} has letters that preprocess.language cannot read: {shown}; is it in another language?"


def normalize_text(text: str) -> str:
    """One line of composed characters with single spaces, without control characters, with straight double quotes."""
    # Espeak-ng reads a letter with a combining accent as another word, and ends a text at its first NUL.
    text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode())
    text = "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)
    text = _FULL_WIDTH.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text).translate(_SAME_MARKS)
    return " ".join(text.replace("“", '"').replace("”", '"').replace(WORD_BOUNDARY, " ").split())
