"""Text in any encoding is decoded correctly, or refused with the file's name."""

import codecs
from pathlib import Path

import pytest

from tests.conftest import Messages
from utils.errors import UserError
from utils.log import log
from utils.text_files import read_text_file

FRENCH = "Le café était déjà fermé.\n"
CHINESE = "今天天气很好，我们一起去公园散步吧。他昨天买了一本新书，今天已经读完了。\n" * 3
JAPANESE = "今日はとても天気がいいので、公園へ散歩に行きましょう。ひらがなとカタカナ。\n" * 3
RUSSIAN = "Сегодня хорошая погода, и мы пойдём гулять в парк. Он вчера купил новую книгу.\n" * 3


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "utf-8"),
        (FRENCH, "utf-8-sig"),
        (FRENCH, "utf-16"),
        (FRENCH, "utf-16-le"),
        (FRENCH, "utf-16-be"),
        (FRENCH, "utf-32"),
        (FRENCH, "latin-1"),
        ("café", "latin-1"),
        ("naïve “quotes” – and a dash…", "cp1252"),
        (CHINESE, "gb18030"),
        (CHINESE, "utf-16"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (RUSSIAN, "cp1251"),
        ("", "utf-8"),
    ],
)
def test_text_is_decoded_correctly(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode(encoding))
    assert read_text_file(path) == text


def test_a_guessed_encoding_is_logged_once_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = Messages()
    monkeypatch.setattr(log, "handlers", [messages])
    path = tmp_path / "text.txt"
    path.write_bytes(FRENCH.encode("latin-1"))
    for _ in range(3):
        read_text_file(path)
    assert messages.texts == [f"{path}: not UTF-8; read as cp1252"]


@pytest.mark.parametrize("content", [b"\x80\x01\x02\xff\xfe\x9d", codecs.BOM_UTF16_LE + b"odd", b"\xff" * 3 + b"\x1b"])
def test_a_file_that_is_not_text_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"text\.txt: not text in .*; save it as UTF-8"):
        read_text_file(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.txt", tmp_path):
        with pytest.raises(UserError, match="cannot be read: "):
            read_text_file(path)
