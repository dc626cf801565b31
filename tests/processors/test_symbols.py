"""The symbol table: stable ids, two file formats, damaged files."""

import random

import pytest

from processors.symbols import SymbolTable
from utils.errors import UserError


def test_special_symbols_come_first_and_phones_are_sorted():
    table = SymbolTable.from_phones(["b", "a", "ɑː", "b", "_"])
    assert (table.pad_id, table.bos_id, table.eos_id) == (0, 1, 2)
    assert table.phones == ("_", "a", "b", "ɑː")
    assert len(table) == 7
    assert "a" in table and "c" not in table and "<pad>" not in table


def test_encoding_with_and_without_blanks():
    table = SymbolTable(["a", "b"])
    assert table.encode(["b", "a", "b"], add_blank=False) == [1, 4, 3, 4, 2]
    assert table.encode(["b", "a", "b"], add_blank=True) == [1, 0, 4, 0, 3, 0, 4, 0, 2]
    assert table.encode([], add_blank=False) == [1, 2]


def test_unknown_phones_are_named_once_each():
    with pytest.raises(ValueError, match=r"not in the symbol table: y x <pad>$"):
        SymbolTable(["a"]).encode(["y", "a", "x", "y", "<pad>"], add_blank=False)


def test_extending_never_shifts_an_id():
    rng = random.Random(0)
    letters = [chr(code) for code in range(0x61, 0x61 + 26)]
    table = SymbolTable.from_phones(rng.sample(letters, 5))
    for _ in range(10):
        new = rng.sample(letters, 6)
        longer = table.extended(new)
        assert longer.phones[: len(table.phones)] == table.phones
        added = longer.phones[len(table.phones) :]
        assert list(added) == sorted(set(new) - set(table.phones))
        table = longer


@pytest.mark.parametrize("phone", ["", " ", "a b", "a\n", "\u00a0", "<eos>"])
def test_a_phone_that_a_file_cannot_hold_is_refused(phone):
    with pytest.raises(ValueError):
        SymbolTable([phone])


def test_saved_tables_load_the_same(tmp_path):
    path = tmp_path / "data" / "symbols.dict"
    table = SymbolTable(["z", "ɑː", "#", "5", "<eps>", "\u0303", "\ufeff", '"', "aʊ"])
    table.save(path)
    table.save(path)
    assert SymbolTable.load(path) == table
    assert path.read_text(encoding="utf-8").startswith("<pad> 0\n<bos> 1\n<eos> 2\nz 3\n")
    assert [file.name for file in path.parent.iterdir()] == ["symbols.dict"]


def test_written_ids_count_in_any_order(tmp_path):
    path = tmp_path / "symbols.dict"
    path.write_text("b 4\r\n<eos> 2\r\n<pad> 0\r\na 3\r\n\r\n<bos> 1")
    assert SymbolTable.load(path).phones == ("a", "b")


def test_a_reference_file_gives_its_symbols_sorted(tmp_path):
    path = tmp_path / "symbols.dict"
    path.write_text("b 0\n<eps> 7\na 7\n", encoding="utf-8")
    assert SymbolTable.load(path).phones == ("<eps>", "a", "b")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("<pad> 0\n<bos> 1\n<eos> 2\na\n", "line 4"),
        ("<pad> 0\n<bos> 1\n<eos> 2\na 3 4\n", "line 4"),
        ("<pad> 0\n<bos> 1\n<eos> 2\na x\n", "line 4"),
        ("<pad> 0\n<bos> 1\n<eos> 2\na -3\n", "line 4"),
        ("<pad> 0\n<bos> 1\n<eos> 2\na 4\n", "line 4"),
        ("<pad> 0\n<bos> 1\n<eos> 2\na 3\nb 3\n", "line 5"),
        ("<pad> 0\n<bos> 1\n<eos> 2\na 3\na 4\n", "line 5"),
        ("<pad> 1\n<bos> 0\n<eos> 2\n", "line 2"),
        ("<pad> 0\n<bos> 1\na 2\n<eos> 3\n", "line 3"),
        ("<pad> 0\n", "must be"),
        ("a 0\n<bos> 1\n", "line 2"),
        ("a 0\nb\n", "line 2"),
        ("", "empty"),
        ("\n\n", "empty"),
    ],
)
def test_a_damaged_file_is_one_clear_line(tmp_path, text, where):
    path = tmp_path / "symbols.dict"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        SymbolTable.load(path)
    assert str(path) in str(caught.value) and where in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "binary"):
        with pytest.raises(UserError, match=str(path)):
            SymbolTable.load(path)
