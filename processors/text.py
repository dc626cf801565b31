"""Text to phones to ids: one path, which training, samples and inference share."""

import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import groupby

import numpy as np

from config.schema import PreprocessSettings
from processors.frontends.base import Phonemizer
from processors.symbols import WORD_BOUNDARY, SymbolTable, join_words, language_of_symbol
from processors.text_to_phones import TextReaders, build_readers, phonemize_each
from utils.log import log


class TextTokenizer:
    """The one place where text becomes ids.

    `load_readers` is called when a text is first read. Training never calls it: its phones come from stage 1.
    """

    def __init__(self, load_readers: Callable[[], TextReaders], table: SymbolTable, add_blank: bool) -> None:
        self._load_readers = load_readers
        self._table = table
        self._add_blank = add_blank
        self._replacements: dict[str, str | None] = {}

    @classmethod
    def from_settings(cls, settings: PreprocessSettings, table: SymbolTable) -> "TextTokenizer":
        return cls(partial(build_readers, settings, table), table, settings.add_blank)

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """The languages that the table has symbols of; none in experiments with one language."""
        return tuple(language for phone in self._table.phones if (language := language_of_symbol(phone)))

    def reader(self, language: str = "") -> Phonemizer:
        """The text frontend, loaded at the first use. Raises UserError if it cannot be loaded."""
        return self._readers.reader(language)

    @cached_property
    def _readers(self) -> TextReaders:
        return self._load_readers()

    def phones(self, texts: Sequence[str], languages: Sequence[str] | None = None) -> list[list[str]]:
        """The phones of each text. `languages` matters only in experiments with several languages."""
        return phonemize_each(self._readers, texts, [""] * len(texts) if languages is None else languages)

    def spelled(self, ids: Sequence[int]) -> list[str]:
        """The phone of each id; empty for blanks and other special symbols."""
        offset = len(self._table) - len(self._table.phones)
        return ["" if index < offset else self._table.phones[index - offset] for index in ids]

    def num_ids(self, num_phones: np.ndarray) -> np.ndarray:
        """The number of ids of utterances with so many phones, all of them in the table."""
        return self._table.num_ids(num_phones, self._add_blank)

    def ids(self, phones: Sequence[str]) -> list[int]:
        """Ids of `<bos>`, the phones and `<eos>`, with blanks where the tokenizer adds them.

        A phone that is not in the table is replaced by the nearest one that differs in combining or modifier marks
        only, or left out if there is none. Each replacement is logged once.
        """
        self._add_replacements(phones)
        known = [phone if phone in self._table else self._replacements[phone] for phone in phones]
        kept = [phone for phone in known if phone is not None]
        if len(kept) < len(phones):
            # A word that lost all of its phones must not leave two word boundaries in a row.
            kept = join_words([list(word) for is_gap, word in groupby(kept, WORD_BOUNDARY.__eq__) if not is_gap])
        return self._table.encode(kept, self._add_blank)

    def _add_replacements(self, phones: Sequence[str]) -> None:
        new = [p for p in dict.fromkeys(phones) if p not in self._table and p not in self._replacements]
        if not new:
            return
        self._replacements.update((phone, _nearest_spelling(phone, self._table.phones)) for phone in new)
        lines = [f"{phone} ({_code_points(phone)}) -> {self._replacements[phone] or 'left out'}" for phone in new]
        log.warning("phones that the symbol table does not have: %s", ", ".join(lines))


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
