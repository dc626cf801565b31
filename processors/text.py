"""Text to phones to ids: the one path that training and inference share."""

import difflib
import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Protocol

import numpy as np
from phonemizer.separator import Separator

from processors.espeak import espeak_backend, espeak_languages
from processors.scripts import unreadable_letters
from processors.symbols import WORD_BOUNDARY, SymbolTable
from utils.errors import UserError

PHONE_SEPARATOR = "|"

# Phonemizer's default marks with the white space around them. A comma or stop inside a number is part of the number.
_MARKS = re.compile(r'(?:\s*(?:[;:!?¡¿—…"«»“”(){}\[\]]|(?<![0-9])[,.]|[,.](?![0-9]))\s*)+')
# A single quote that closes speech behind a mark. Left in the next chunk, it would take the word boundary with it:
# espeak-ng drops the quote and the space behind it.
_CLOSING_QUOTE = re.compile(r"(?<=[;:!?,.…])['’‘]+(?!\w)")
# A decimal without its zero, whose point would be a stop.
_BARE_DECIMAL = re.compile(r"(?<![\w.,])\.(?=[0-9])")
# Marks of other scripts, as the marks that voices know. The full-width forms of ASCII are folded before.
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
_LOGGER = logging.getLogger("vallet")


class Phonemizer(Protocol):
    """What turns text into phones."""

    def phonemize(self, texts: Sequence[str]) -> list[list[str]]:
        """The phones of each text, `_` between its words, punctuation marks as phones of their own.

        Result i belongs to texts[i] and depends on nothing else. A text without anything to say gives its punctuation
        marks or an empty list.
        """
        ...

    def unreadable(self, text: str) -> list[str]:
        """The letters of a text that it would not pronounce but spell, or leave out."""
        ...


class EspeakPhonemizer:
    """IPA phones by espeak-ng, with its punctuation kept and stress left out.

    `language` is an espeak-ng voice such as en-us or de. Where espeak-ng says a word in another language than that
    one, its marker of the change is not kept. Can be pickled, and so sent to worker processes.

    Raises UserError where espeak-ng has no such voice or cannot be loaded.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self._separator = Separator(word=WORD_BOUNDARY, syllable="-", phone=PHONE_SEPARATOR)
        try:
            languages = espeak_languages()
            if language not in languages:
                raise UserError(_no_such_language(language, languages))
            # The marks are set aside and put back here: phonemizer's own way loses the line a mark belongs to when
            # a line has no word, a chunk gives no phone, or a number holds a stop.
            self._backend = espeak_backend(language)
        except RuntimeError as error:
            raise UserError(
                f"preprocess.language: espeak-ng cannot speak {language}: {error}; choose another language, or set "
                "preprocess.phone_extractor to graphemes"
            ) from None

    def phonemize(self, texts: Sequence[str]) -> list[list[str]]:
        """See `Phonemizer.phonemize`."""
        pieces = [_split_marks(_pronounceable(text)) for text in texts]
        chunks = [chunk for text_pieces in pieces for chunk in text_pieces[::2] if chunk]
        said = iter(self._backend.phonemize(chunks, separator=self._separator, strip=True))
        return [_to_phones(text_pieces, lambda: next(said)) for text_pieces in pieces]

    def unreadable(self, text: str) -> list[str]:
        """See `Phonemizer.unreadable`."""
        return unreadable_letters(_normalised(text), self._language)

    def __reduce__(self) -> tuple[type["EspeakPhonemizer"], tuple[str]]:
        return EspeakPhonemizer, (self._language,)


class GraphemePhonemizer:
    """The lower-cased characters of the text, for languages that espeak-ng does not have."""

    def phonemize(self, texts: Sequence[str]) -> list[list[str]]:
        """See `Phonemizer.phonemize`."""
        return [_join_words([list(word) for word in _normalised(text).lower().split()]) for text in texts]

    def unreadable(self, text: str) -> list[str]:
        """None: each character is a phone."""
        return []


def build_phonemizer(phone_extractor: str, language: str) -> Phonemizer:
    """The phonemizer that `preprocess.phone_extractor` names: espeak or graphemes.

    Raises UserError for another name, or a language that espeak-ng does not have.
    """
    if phone_extractor == "espeak":
        return EspeakPhonemizer(language)
    if phone_extractor == "graphemes":
        return GraphemePhonemizer()
    raise UserError(f"preprocess.phone_extractor: {phone_extractor} is not one of espeak, graphemes")


def unreadable_message(name: str, letters: Sequence[str]) -> str:
    """One line for a text called `name` that has letters of another script."""
    shown = ", ".join(letters[:5]) + (", ..." if len(letters) > 5 else "")
    return f"{name} has letters that preprocess.language cannot read: {shown}; is it in another language?"


class TextTokenizer:
    """The one place where text becomes ids.

    `phonemizer` may be None where only phones are encoded, as in training on prepared data.
    """

    def __init__(self, phonemizer: Phonemizer | None, table: SymbolTable, add_blank: bool) -> None:
        self._phonemizer = phonemizer
        self._table = table
        self._add_blank = add_blank
        self._replaced: dict[str, str | None] = {}

    def phones(self, texts: Sequence[str]) -> list[list[str]]:
        """The phones of each text.

        Raises RuntimeError without a phonemizer.
        """
        if self._phonemizer is None:
            raise RuntimeError("this tokenizer was built without a phonemizer")
        return self._phonemizer.phonemize(texts)

    def unreadable(self, text: str) -> list[str]:
        """The letters of a text that the phonemizer cannot read; none without a phonemizer."""
        return [] if self._phonemizer is None else self._phonemizer.unreadable(text)

    def refusal(self, name: str, text: str) -> str | None:
        """Why a text called `name` cannot be read; None where it can."""
        letters = self.unreadable(text)
        return unreadable_message(name, letters) if letters else None

    def num_ids(self, num_phones: np.ndarray) -> np.ndarray:
        """How many ids utterances of so many phones have, where the table has all of their phones."""
        return self._table.num_ids(num_phones, self._add_blank)

    def ids(self, phones: Sequence[str]) -> list[int]:
        """Ids of `<bos>`, the phones and `<eos>`, with blanks where the tokenizer adds them.

        A phone outside the table becomes the nearest one that differs by combining or modifier marks alone; where
        there is none it is left out. Each such phone is logged once.
        """
        self._report([phone for phone in dict.fromkeys(phones) if phone not in self._table])
        known = [phone if phone in self._table else self._replaced[phone] for phone in phones]
        kept = [phone for phone in known if phone is not None]
        if len(kept) < len(phones):
            kept = _join_words([list(word) for is_gap, word in groupby(kept, WORD_BOUNDARY.__eq__) if not is_gap])
        return self._table.encode(kept, self._add_blank)

    def _report(self, unknown: list[str]) -> None:
        new = [phone for phone in unknown if phone not in self._replaced]
        if not new:
            return
        self._replaced.update((phone, _nearest_spelling(phone, self._table.phones)) for phone in new)
        told = [f"{phone} ({_code_points(phone)}) -> {self._replaced[phone] or 'left out'}" for phone in new]
        _LOGGER.warning("phones that the symbol table does not have: %s", ", ".join(told))


def _normalised(text: str) -> str:
    """One line of composed characters with single spaces, without control characters, straight double quotes."""
    # Espeak reads a letter with a combining accent as another word, and a text up to its first NUL.
    text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode())
    text = "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)
    text = _FULL_WIDTH.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text).translate(_SAME_MARKS)
    return " ".join(text.replace("“", '"').replace("”", '"').replace(WORD_BOUNDARY, " ").split())


def _pronounceable(text: str) -> str:
    """The normalised text, with what espeak-ng would misread written as it reads it."""
    return _BARE_DECIMAL.sub("0.", _CLOSING_QUOTE.sub("", _normalised(text)))


def _split_marks(text: str) -> list[str]:
    """Split text into `[words, marks, words, ...]`; the first and last pieces are words and may be empty."""
    pieces: list[str] = []
    end = 0
    for match in _MARKS.finditer(text):
        pieces += [text[end : match.start()], match.group()]
        end = match.end()
    return [*pieces, text[end:]]


def _to_phones(pieces: list[str], say: Callable[[], str]) -> list[str]:
    """The phones of one text, with `say` giving what espeak made of its next chunk that is not empty."""
    line = "".join(
        piece.replace(" ", WORD_BOUNDARY) if index % 2 else say() if piece else "" for index, piece in enumerate(pieces)
    )
    words = [re.findall(r"\w+|[^\w\s]", word) for word in line.split(WORD_BOUNDARY)]
    return _join_words([[phone for phone in word if phone != PHONE_SEPARATOR] for word in words])


def _join_words(words: list[list[str]]) -> list[str]:
    phones: list[str] = []
    for word in words:
        if phones and word:
            phones.append(WORD_BOUNDARY)
        phones += word
    return phones


def _no_such_language(language: str, languages: list[str]) -> str:
    base = re.split(r"[-_]", language.lower())[0]
    near = [name for name in languages if re.split(r"[-_]", name.lower())[0] == base]
    near = difflib.get_close_matches(language.lower(), near or languages, n=5, cutoff=0 if near else 0.6)
    if near:
        return f"preprocess.language: espeak-ng has no language {language}; the nearest are {', '.join(near)}"
    return f"preprocess.language: espeak-ng has no language {language}; it has {', '.join(languages)}"


def _nearest_spelling(phone: str, phones: Sequence[str]) -> str | None:
    base = _base_spelling(phone)
    same = [candidate for candidate in phones if base and _base_spelling(candidate) == base]
    return min(same, key=lambda candidate: (abs(len(candidate) - len(phone)), candidate), default=None)


def _base_spelling(phone: str) -> str:
    """The phone without combining marks and modifier letters, length marks among them."""
    kept = (c for c in unicodedata.normalize("NFD", phone) if unicodedata.category(c) not in {"Mn", "Mc", "Me", "Lm"})
    return "".join(kept)


def _code_points(phone: str) -> str:
    return " ".join(f"U+{ord(character):04X}" for character in phone)
