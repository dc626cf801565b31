"""The symbol table: a phone's id is its row in the text embedding."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.files import atomic_write

WORD_BOUNDARY = "_"
"""The phone between two words."""
PAD, BOS, EOS = SPECIALS = ("<pad>", "<bos>", "<eos>")
# A name as espeak-ng's voices have.
_LANGUAGE_SYMBOL = re.compile(r"<([A-Za-z][\w-]+)>")


class SymbolTable:
    """`<pad>` has id 0, `<bos>` 1, `<eos>` 2, and `phones` follow in order from 3 on.

    Immutable, because a trained model relies on the ids. `len` includes the special symbols; `in` does not. Raises
    ValueError if a phone is empty, contains white space, is given twice or is a special symbol.
    """

    pad_id = 0
    bos_id = 1
    eos_id = 2

    def __init__(self, phones: Sequence[str] = ()) -> None:
        self._phones = tuple(phones)
        self._ids = {phone: index for index, phone in enumerate(self._phones, start=len(SPECIALS))}
        if len(self._ids) != len(self._phones):
            raise ValueError("a phone is given twice")
        for phone in self._phones:
            if phone in SPECIALS or phone.split() != [phone]:
                raise ValueError(f"{phone!r} cannot be a phone")

    @classmethod
    def from_phones(cls, phones: Iterable[str]) -> "SymbolTable":
        """A table of the distinct phones, sorted."""
        return cls(sorted(set(phones)))

    @classmethod
    def load(cls, path: Path) -> "SymbolTable":
        """Read a `symbols.dict` with one `symbol id` a line.

        The ids count if the file has `<pad>`. A file without it comes from the reference recipe, which never used the
        ids in it: its symbols, sorted, follow the three special ones. Raises UserError if the file cannot be read or a
        line is malformed.
        """
        rows = _read_rows(path)
        if any(row.symbol == PAD for row in rows):
            return cls(_phones_by_id(rows, path))
        for row in rows:
            if row.symbol in SPECIALS:
                raise UserError(f"{path}, line {row.line}: {row.symbol} without {PAD}; '{PAD} 0' must be there as well")
        return cls(sorted(row.symbol for row in rows))

    def save(self, path: Path) -> None:
        """Write every symbol with its id, `<pad> 0` first, atomically."""
        lines = "".join(f"{symbol} {index}\n" for index, symbol in enumerate((*SPECIALS, *self._phones)))
        with atomic_write(path) as temporary:
            temporary.write_bytes(lines.encode())

    def encode(self, phones: Sequence[str], add_blank: bool) -> list[int]:
        """Ids of `<bos>`, the phones and `<eos>`; with `add_blank`, id 0 is inserted around and between the phones.

        Raises ValueError for phones that the table does not have.
        """
        unknown = [phone for phone in dict.fromkeys(phones) if phone not in self._ids]
        if unknown:
            raise ValueError(f"phones not in the symbol table: {' '.join(unknown)}")
        ids = [self._ids[phone] for phone in phones]
        if add_blank:
            blanked = [self.pad_id] * (2 * len(ids) + 1)
            blanked[1::2] = ids
            ids = blanked
        return [self.bos_id, *ids, self.eos_id]

    @staticmethod
    def num_ids(num_phones: np.ndarray, add_blank: bool) -> np.ndarray:
        """How many ids `encode` gives for so many phones."""
        return 2 * num_phones + 3 if add_blank else num_phones + 2

    def extended(self, phones: Iterable[str]) -> "SymbolTable":
        """A table with the missing phones appended, sorted; existing ids do not change."""
        return SymbolTable([*self._phones, *sorted(set(phones).difference(self._phones))])

    @property
    def phones(self) -> tuple[str, ...]:
        """All phones, in the order of their ids."""
        return self._phones

    def __contains__(self, phone: object) -> bool:
        return phone in self._ids

    def __len__(self) -> int:
        return len(SPECIALS) + len(self._phones)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SymbolTable) and self._phones == other._phones

    def __hash__(self) -> int:
        return hash(self._phones)


def language_symbol(language: str) -> str:
    """The phone that texts in a language begin with where a model speaks several (VALL-E X, section 3)."""
    return f"<{language}>"


def language_of_symbol(phone: str) -> str | None:
    """The language that a symbol stands for; None for any other phone, and for special symbols."""
    match = _LANGUAGE_SYMBOL.fullmatch(phone)
    return match[1] if match and phone not in (*SPECIALS, "<eps>") else None


def join_phones(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The phones of two texts as one, with a word boundary between them.

    A language symbol of the second text stays only if the first text ends in another language.
    """
    symbols = [phone for phone in before if language_of_symbol(phone)]
    goes_on = bool(symbols) and list(after[:1]) == symbols[-1:]
    return join_words([before, after[1:] if goes_on else after])


def join_words(words: Iterable[Sequence[str]]) -> list[str]:
    """The phones of words, with a word boundary between each two; empty words are left out."""
    phones: list[str] = []
    for word in words:
        if phones and word:
            phones.append(WORD_BOUNDARY)
        phones += word
    return phones


class _Row(NamedTuple):
    line: int
    symbol: str
    id: int


def _read_rows(path: Path) -> list[_Row]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"{path}: the symbol table cannot be read: {reason}") from None
    rows: list[_Row] = []
    seen: dict[str, int] = {}
    # Split at "\n" only: other characters that Python takes for line ends may be part of a damaged line.
    for line, content in enumerate(text.split("\n"), start=1):
        fields = content.split()
        if not fields:
            continue
        if len(fields) != 2 or not (fields[1].isascii() and fields[1].isdigit() and len(fields[1]) < 10):
            raise UserError(f"{path}, line {line}: {content.strip()[:80]!r} is not a symbol, a space and an id")
        symbol, index = fields[0], int(fields[1])
        if symbol in seen:
            raise UserError(f"{path}, line {line}: {symbol} is already on line {seen[symbol]}; remove one of them")
        seen[symbol] = line
        rows.append(_Row(line, symbol, index))
    if not rows:
        raise UserError(f"{path}: the symbol table is empty; each line needs a symbol, a space and an id")
    return rows


def _phones_by_id(rows: list[_Row], path: Path) -> list[str]:
    """The phones of a file whose ids count, in the order of ids."""
    rows = sorted(rows, key=lambda row: (row.id, row.line))
    for expected, row in enumerate(rows):
        special = SPECIALS[expected] if expected < len(SPECIALS) else None
        if row.id != expected:
            raise UserError(
                f"{path}, line {row.line}: {row.symbol} has id {row.id} instead of {expected}; "
                "ids must run from 0 without gaps or duplicates"
            )
        if row.symbol != special and (special or row.symbol in SPECIALS):
            raise UserError(f"{path}, line {row.line}: {row.symbol} has id {row.id}; 0, 1, 2 are {', '.join(SPECIALS)}")
    if len(rows) < len(SPECIALS):
        raise UserError(f"{path}: ids 0, 1 and 2 must be {', '.join(SPECIALS)}")
    return [row.symbol for row in rows[len(SPECIALS) :]]
