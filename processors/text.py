"""Text to phones to ids: one path, which training, samples and inference share."""

import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import groupby

import numpy as np

from config.schema import PreprocessSettings
from processors.frontends.base import Phonemizer
from processors.symbols import WORD_BOUNDARY, SymbolTable, join_words
from processors.text_to_phones import TextToPhones
from utils.log import log


class TextTokenizer:
    """The one place where text becomes ids.

    `load_phonemizer` is called when a phonemizer is first needed. Training never calls it: its phones come from
    stage 1.
    """

    def __init__(self, load_phonemizer: Callable[[], Phonemizer], table: SymbolTable, add_blank: bool) -> None:
        self._load_phonemizer = load_phonemizer
        self._table = table
        self._add_blank = add_blank
        self._replacements: dict[str, str | None] = {}

    @classmethod
    def from_settings(cls, settings: PreprocessSettings, table: SymbolTable) -> "TextTokenizer":
        load_phonemizer = partial(TextToPhones.from_settings, settings, table)
        return cls(load_phonemizer, table, settings.add_blank)

    @cached_property
    def phonemizer(self) -> Phonemizer:
        """The text frontend, loaded at the first use. Raises UserError if it cannot be loaded."""
        return self._load_phonemizer()

    def phones(self, texts: Sequence[str]) -> list[list[str]]:
        return self.phonemizer.phonemize(texts)

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
