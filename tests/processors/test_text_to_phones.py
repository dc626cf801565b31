"""The lexicon, inline phones, and the order in which a text is rewritten."""

import json
import re
from pathlib import Path

import pytest

from config.schema import PreprocessSettings
from processors.frontends import build_phonemizer
from processors.lexicon import Lexicon, lexicon_fingerprint
from processors.symbols import SymbolTable, join_words
from processors.text import TextTokenizer
from processors.text_to_phones import TextToPhones
from synthesis.parts import split_text
from tests.conftest import defaults, requires
from tests.processors.test_text import GOLDEN, NASTY, random_texts
from utils.errors import UserError


def settings_with(**changes: str | None) -> PreprocessSettings:
    return defaults().preprocess.model_copy(update=changes)


def phones(text: str, **changes: str | None) -> str:
    return " ".join(TextToPhones.from_settings(settings_with(**changes)).phonemize([text])[0])


@pytest.fixture
def lexicon(tmp_path: Path) -> Path:
    path = tmp_path / "words.tsv"
    path.write_text(
        "# names\n\nNguyen\t/wɪn/\nnginx\tengine x\ncaché\tkæˈʃeɪ\nC++\tsee plus plus\nNew York\t[[nuː jɔːɹk]]\n"
        "read's\treeds\n重庆\t崇庆\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("extractor", ["espeak", "graphemes"])
def test_without_normalization_phones_are_those_of_the_frontend(extractor: str) -> None:
    texts = [text for text in NASTY if "[[" not in text] + random_texts(5, 200)
    bare = build_phonemizer(extractor, "en-us")
    wrapped = TextToPhones.from_settings(settings_with(phone_extractor=extractor, normalize_text="none"))
    assert wrapped.phonemize(texts) == bare.phonemize(texts)
    assert [wrapped.unreadable(text) for text in texts] == [bare.unreadable(text) for text in texts]


def test_normalization_is_done_when_asked() -> None:
    assert phones("It costs $5.", normalize_text="auto") == phones("It costs five dollars.", normalize_text="none")
    assert phones("It costs $5.", normalize_text="none") != phones("It costs five dollars.", normalize_text="none")


@pytest.mark.parametrize("normalize_text", ["auto", "none"])
@pytest.mark.parametrize(
    "text, expected",
    [
        ("[[həˈloʊ]]", "h ə l oʊ"),
        ("Say [[həˈloʊ wɜːld]]!", "s eɪ _ h ə l oʊ _ w ɜː l d !"),
        ("say [[ˈdʒeɪsən]]'s name", "s eɪ _ dʒ eɪ s ə n z _ n eɪ m"),
        ("[[bɒs]]'s", "b ɒ s ᵻ z"),
        ("[[kæt]]’s, ok", "k æ t s , _ oʊ k eɪ"),
        ("([[kɑːɹ]])", "( k ɑːɹ )"),
        ("[[]] a [[ ]]", "eɪ"),
        ("say[[tʃ]]", "s eɪ tʃ"),
    ],
)
def test_inline_phones_are_taken_as_written(text: str, expected: str, normalize_text: str) -> None:
    assert phones(text, normalize_text=normalize_text) == expected


@pytest.mark.parametrize("normalize_text", ["auto", "none"])
@pytest.mark.parametrize("mark", ["[pause 0.5s]", " [pause 0.5s] ", "[ Pause .5 S]", "[pause 1s][pause 2s]"])
def test_a_pause_is_a_word_boundary_without_phones(mark: str, normalize_text: str) -> None:
    plain = phones("Hello, there", normalize_text=normalize_text)
    assert phones(f"Hello,{mark}there", normalize_text=normalize_text) == plain
    assert phones(f"{mark}Hello, there{mark}", normalize_text=normalize_text) == plain
    assert phones(mark, normalize_text=normalize_text) == ""
    # Each side is read as in a part of its own, so "$5 million" is not one amount here.
    reader = TextToPhones.from_settings(settings_with(normalize_text=normalize_text))
    text = f"It costs $5{mark}million for Henry{mark}VIII."
    _, parts = split_text(text, reader.phonemize, 100, "en")
    assert len(parts) == 3
    assert reader.phonemize([text])[0] == join_words(reader.phonemize([part.text for part in parts]))


@pytest.mark.parametrize("wrong", ["[pause]", "[pause 5]", "[pause 61s]", "[pause -1s]", "[PAUSE one second]"])
def test_a_pause_without_a_valid_length_is_refused(wrong: str) -> None:
    reader = TextToPhones.from_settings(settings_with())
    reason = f"{wrong} takes a length of at most 60 s, as in [pause 0.5s]; correct it, or remove it"
    assert reader.refusal("the text", f"Hello {wrong} there") == f"the text: {reason}"
    for read in (reader.rewrite, reader.unreadable, lambda text: reader.phonemize([text])):
        with pytest.raises(UserError, match=re.escape(reason)):
            read(f"Hello {wrong} there")
    assert reader.refusal("the text", "Hello [pauses] [[pause 9]]") is None


def test_a_text_in_a_batch_gives_what_it_gives_alone(lexicon: Path) -> None:
    reader = TextToPhones.from_settings(settings_with(lexicon=str(lexicon)))
    texts = [*NASTY, "Nguyen [[wɪn]]'s $5", "[[a]][[b]]", *random_texts(8, 40)]
    assert reader.phonemize(texts) == [reader.phonemize([text])[0] for text in texts]


def test_phones_of_the_table_bound_inline_phones() -> None:
    """tʃ is one phone for a table that has it, and otherwise two, which it may have."""
    for known, expected in ((["tʃ", "t", "ʃ"], ["tʃ"]), (["t", "ʃ"], ["t", "ʃ"])):
        reader = TextToPhones.from_settings(settings_with(), SymbolTable.from_phones(known))
        assert reader.phonemize(["[[tʃ]]"]) == [expected]
    table = SymbolTable.from_phones(["h", "ə", "l", "oʊ", "_"])
    tokenizer = TextTokenizer.from_settings(settings_with(), table)
    [inline] = tokenizer.phones(["[[həˈloʊ]]"])
    assert tokenizer.ids(inline) == table.encode(["h", "ə", "l", "oʊ"], add_blank=False)


def test_lexicon_words_are_whole_and_of_any_case(lexicon: Path) -> None:
    rewrite = Lexicon.load(lexicon).apply
    assert rewrite("NGUYEN and nguyen's Nguyens") == "[[wɪn]] and [[wɪn]]'s Nguyens"
    assert rewrite("use nginx, not enginx") == "use engine x, not enginx"
    assert rewrite("C++ and c++; new\u00a0york-based") == "see plus plus and see plus plus; [[nuː jɔːɹk]]-based"
    assert rewrite("a cache\u0301") == "a [[kæˈʃeɪ]]"
    assert rewrite("read’s read") == "reeds read"
    assert rewrite("在重庆市") == "在崇庆市"
    assert rewrite("[[nginx]] [pause nginx]") == "[[nginx]] [pause nginx]"


def test_the_lexicon_comes_before_normalization(lexicon: Path) -> None:
    lexicon.write_text("Dr.\tdoc\n$5\tfive bucks\n", encoding="utf-8")
    reader = TextToPhones.from_settings(settings_with(lexicon=str(lexicon)))
    assert reader.rewrite("Dr. Lee paid $5.") == "doc Lee paid five bucks."


@pytest.mark.parametrize(
    "content, reason",
    [
        ("a\tb\nword\n", "line 2: 'word' is not a word, a tab"),
        ("a\tb\tc\n", "line 1: 'a\\tb\\tc' is not"),
        ("a\t \n", "line 1"),
        ("a\tb\nA\tc\n", "line 2: A is already on line 1"),
        ("a\t/h@l/\n", "line 1: '@' in '/h@l/' is not IPA"),
        ("a\t...\n", "line 1: '...' has nothing that can be spoken"),
        ("a\tb\n\n\xff\t\n", "line 3"),
    ],
)
def test_a_wrong_line_is_one_error(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "words.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as raised:
        TextToPhones.from_settings(settings_with(lexicon=str(path)))
    message = str(raised.value)
    assert message.startswith(f"preprocess.lexicon: {path}, line ") and reason in message and "\n" not in message


def test_a_missing_lexicon_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"preprocess.lexicon: .*none.tsv: cannot be read"):
        TextToPhones.from_settings(settings_with(lexicon=str(tmp_path / "none.tsv")))


def test_the_fingerprint_is_that_of_the_content(lexicon: Path) -> None:
    settings = settings_with(lexicon=str(lexicon))
    before = lexicon_fingerprint(settings)
    assert before == lexicon_fingerprint(settings) and lexicon_fingerprint(settings_with()) is None
    lexicon.write_text("a\tb\n", encoding="utf-8")
    assert lexicon_fingerprint(settings) != before


@requires(GOLDEN)
def test_without_normalization_phones_are_those_of_the_reference() -> None:
    rows = [json.loads(line) for line in (GOLDEN / "phones.jsonl").read_text(encoding="utf-8").splitlines()]
    reader = TextToPhones.from_settings(settings_with(normalize_text="none"))
    assert reader.phonemize([row["text"] for row in rows]) == [row["phones"] for row in rows]
