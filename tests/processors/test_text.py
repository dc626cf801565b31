"""Text to phones to ids: the reference's phones, and independence of other texts."""

import json
import logging
import pickle
import random
import subprocess
import sys
from typing import get_args

import pytest

from config.schema import PreprocessSettings
from processors.frontends import FRONTENDS, build_phonemizer
from processors.frontends.base import Phonemizer
from processors.frontends.espeak import EspeakPhonemizer
from processors.frontends.graphemes import GraphemePhonemizer
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from tests.conftest import ROOT, TEST_DATA, requires
from utils.errors import UserError

GOLDEN = TEST_DATA / "golden" / "text"
NASTY = [
    "",
    " ",
    "\n",
    "\t \u00a0\u2028",
    "...",
    "?!",
    ' " ! ',
    "-",
    "'",
    "’",
    "—",
    "_",
    "|",
    "a|b_c",
    "I paid 1.5. Then 2,5, or 3.",
    "1.5 is good.",
    ". Hello",
    "Hello .",
    "Wait, ' , what?",
    "first line\nsecond line.\n\n",
    "He said: “(no) — [never]…”",
    "x\0y",
    "a\x1fb\x85c",
    "caf\u00e9 cafe\u0301",
    "東京 tower",
    "привет, мир!",
    "नमस्ते",
    "😀 fine",
    "\ud800 broken",
    "\u200b",
    "</speak> [[h@l'oU]] &amp; %",
    "word " * 120,
    "x" * 400,
]


@pytest.fixture(scope="module")
def espeak() -> EspeakPhonemizer:
    return EspeakPhonemizer("en-us")


@pytest.fixture(scope="module", params=["espeak", "graphemes"])
def phonemizer(request) -> Phonemizer:
    return build_phonemizer(request.param, "en-us")


def random_texts(seed: int, num: int) -> list[str]:
    rng = random.Random(seed)
    parts = ["hello", "it's", "3.5", "1998", "naïve", "the", "a", "Dr.", "-", "'", " ", "  ", "\n", "_", "é", "語", "²"]
    parts += list(";:,.!?¡¿—…\"«»“”(){}[]'-&%$@#*/\\|~^`")
    return ["".join(rng.choices(parts, k=rng.randrange(12))) for _ in range(num)]


@requires(GOLDEN)
def test_phones_and_ids_are_those_of_the_reference(espeak):
    rows = [json.loads(line) for line in (GOLDEN / "phones.jsonl").read_text(encoding="utf-8").splitlines()]
    tokenizer = TextTokenizer(lambda: espeak, SymbolTable.load(GOLDEN / "symbols.dict"), add_blank=False)
    phones = tokenizer.phones([row["text"] for row in rows])
    assert phones == [row["phones"] for row in rows]
    assert [tokenizer.ids(row) for row in phones] == [row["ids"] for row in rows]


def test_a_text_in_a_batch_gives_what_it_gives_alone(phonemizer):
    for seed in range(6):
        texts = NASTY + random_texts(seed, 60)
        random.Random(seed).shuffle(texts)
        together = phonemizer.phonemize(texts)
        assert together == [phonemizer.phonemize([text])[0] for text in texts]
    assert phonemizer.phonemize([]) == []


def test_earlier_texts_change_nothing(espeak):
    texts = NASTY + random_texts(9, 60)
    used = espeak.phonemize(texts)
    assert EspeakPhonemizer("en-us").phonemize(texts[::-1])[::-1] == used


def test_phones_are_symbols_with_single_separators_between_words(phonemizer):
    for phones in phonemizer.phonemize(NASTY + random_texts(3, 200)):
        assert all(phone.split() == [phone] for phone in phones)
        words = "".join("\n" if phone == "_" else "x" for phone in phones)
        assert "\n\n" not in words and words == words.strip()
        SymbolTable.from_phones(phones)


def test_a_text_without_words_gives_its_marks(espeak):
    texts = ["", " \n ", "...", " ! ? ", "-", "hello"]
    assert espeak.phonemize(texts)[:5] == [[], [], [".", ".", "."], ["!", "_", "?"], []]


def test_white_space_and_quotes_are_of_one_kind(phonemizer):
    same = ['He said: "no, never".', "  He\tsaid:\n\n“no,\u00a0never”. "]
    first, second = phonemizer.phonemize(same)
    assert first == second


def words(phones: list[str]) -> list[str]:
    """The words of a text without its marks."""
    return ["".join(phone for phone in word if phone.isalnum()) for word in "".join(phones).split("_")]


@pytest.mark.parametrize("quotes", ["''", "‘’", "’’"])
@pytest.mark.parametrize(
    "text",
    ['"Yes." he said.', '"No!" and "Why?" again', 'He asked, "Who?" but', '"So," he said.'],
)
def test_single_quotes_bound_words_as_double_ones_do(espeak, text: str, quotes: str):
    parts = text.split('"')
    single = "".join(part + (quotes[index % 2] if index < len(parts) - 1 else "") for index, part in enumerate(parts))
    double_phones, single_phones = espeak.phonemize([text, single])
    assert words(single_phones) == words(double_phones)
    assert [phone for phone in single_phones if phone not in "'\""] == [p for p in double_phones if p not in "'\""]


def test_apostrophes_stay_in_their_words(espeak):
    texts = ["don't", "dogs' bones", "'tis so", "rock 'n' roll", "the U.S.'s size"]
    assert [len(words(phones)) for phones in espeak.phonemize(texts)] == [1, 2, 2, 3, 3]


@pytest.mark.parametrize("text", ["a {} rise", "{}", "-{} or more", "({})", "${}", "it is {}, or so"])
def test_the_point_of_a_decimal_without_a_zero_is_read(espeak, text: str):
    bare, full = espeak.phonemize([text.format(".5"), text.format("0.5")])
    assert bare == full and "pɔɪnt" in "".join(bare)


def test_stops_between_words_are_no_points(espeak):
    for text in ("It ended. 5 more came.", "No. 5", "e.g. this"):
        assert "pɔɪnt" not in "".join(espeak.phonemize([text])[0])


@pytest.mark.parametrize(
    ("marks", "same"),
    [("，。！？；：", ",.!?;:"), ("、।॥،؟؛", ",..,?;"), ("「」（）", '""()'), ("．，：", ".,:")],
)
def test_marks_of_other_scripts_are_mapped_to_known_ones(phonemizer, marks: str, same: str):
    for mark, ascii_mark in zip(marks, same, strict=True):
        first, second = phonemizer.phonemize([f"one{mark}two {mark} three", f"one{ascii_mark}two {ascii_mark} three"])
        assert first == second and ascii_mark in first


def test_full_width_letters_and_digits_are_read(espeak):
    first, second = espeak.phonemize(["Ｈｅｌｌｏ １２", "Hello 12"])
    assert first == second


@pytest.mark.parametrize(
    ("language", "text", "unreadable"),
    [
        ("en-us", "你好世界", "你好世界"),
        ("en-us", "say привет", "привет"),
        ("en-us", "한국어", "한국어"),
        ("en-us", "Ελληνικά", "Ελληνικά"),
        ("en-us", "שלום and مرحبا", "שלוםمرحبا"),
        ("en-us", "café naïve Åse łódź Ænima þorn, π and 2 µm, 5 ª", ""),
        ("en-us", "“quotes” — 😀 ½ x² ™", ""),
        ("en-us", "ℂ and ℝ", ""),
        ("en-us", "ⲁ ꦄ ក", "ⲁꦄក"),
        ("de", "ж", "ж"),
        ("hr", "Здраво", ""),
        ("bs", "Здраво", ""),
        ("fa", "سلام", ""),
        ("fa-latn", "سلام", "سلام"),
        ("ja", "ひらがな カタカナ ー", ""),
        ("ja", "日本", "日本"),
        ("cmn", "你好 hello", ""),
        ("ru", "Привет, hello", ""),
        ("el", "Ελληνικά", ""),
        ("hi", "नमस्ते", ""),
        ("ko", "한국어", ""),
    ],
)
def test_letters_of_another_script_are_named(language: str, text: str, unreadable: str):
    phonemizer = build_phonemizer("espeak", language)
    assert phonemizer.unreadable(text) == list(dict.fromkeys(unreadable))
    assert (phonemizer.refusal("the text", text) is None) == (not unreadable)
    assert build_phonemizer("graphemes", language).unreadable(text) == []


def test_nothing_after_a_number_with_a_stop_is_lost(espeak):
    [phones] = espeak.phonemize(["I paid 1.5. Thanks."])
    assert "".join(phones) == "aɪ_peɪd_wʌn_pɔɪnt_faɪv._θæŋks."


def test_accents_are_read_alike_however_they_are_written(espeak):
    composed, decomposed = espeak.phonemize(["a caf\u00e9", "a cafe\u0301"])
    assert composed == decomposed


def test_language_switch_flags_are_not_phones():
    [phones] = EspeakPhonemizer("fr-fr").phonemize(["j'aime le football"])
    assert "(" not in phones and "".join(phones).endswith("fʊtbɔːl")


def test_graphemes_are_lower_cased_characters():
    phones = GraphemePhonemizer().phonemize(["Hi,  There_You!", ""])
    assert phones == [["h", "i", ",", "_", "t", "h", "e", "r", "e", "_", "y", "o", "u", "!"], []]


@pytest.mark.parametrize(
    ("language", "near"), [("en-xx", "en-us"), ("frs", "fr-fr"), ("", "de"), ("klingonian", "en-gb")]
)
def test_a_language_that_does_not_exist_is_one_clear_line(language, near):
    with pytest.raises(UserError, match=r"preprocess\.language") as caught:
        build_phonemizer("espeak", language)
    assert near in str(caught.value) and "\n" not in str(caught.value)


def test_an_extractor_that_does_not_exist_is_one_clear_line():
    with pytest.raises(UserError, match=r"preprocess\.phone_extractor: festival"):
        build_phonemizer("festival", "en-us")


def test_phonemizing_is_quiet(caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        EspeakPhonemizer("fr-fr").phonemize(["c'est le weekend, of the", "- '", "the a of the"])
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_phonemizers_can_be_pickled(phonemizer):
    copy = pickle.loads(pickle.dumps(phonemizer))
    assert copy.phonemize(["Hello there."]) == phonemizer.phonemize(["Hello there."])


def test_phones_outside_the_table_do_not_stop_inference(caplog):
    table = SymbolTable(["_", "a", "e", "iː", "ɔ"])
    tokenizer = TextTokenizer(GraphemePhonemizer, table, add_blank=False)
    with caplog.at_level(logging.WARNING, logger="vallet"):
        ids = tokenizer.ids(["aː", "_", "x", "_", "i", "é", "ː", "ɔ̃", "a"])
        again = tokenizer.ids(["aː", "_", "x", "_", "i", "é", "ː", "ɔ̃", "a"])
    assert ids == again == table.encode(["a", "_", "iː", "e", "ɔ", "a"], add_blank=False)
    assert len(caplog.records) == 1
    for line in ("aː (U+0061 U+02D0) -> a", "x (U+0078) -> left out", "ː (U+02D0) -> left out"):
        assert line in caplog.text
    assert tokenizer.ids(["x"]) == [table.bos_id, table.eos_id]


def test_the_nearest_of_several_spellings_is_taken():
    table = SymbolTable(["aː", "aːʰ", "b"])
    assert TextTokenizer(GraphemePhonemizer, table, add_blank=False).ids(["a"]) == table.encode(["aː"], add_blank=False)


def test_stored_phones_and_text_give_the_same_ids(espeak):
    text = "The shells she sells are sea-shells, I'm sure."
    [phones] = espeak.phonemize([text])
    table = SymbolTable.from_phones(phones)
    for add_blank in (False, True):
        speaking = TextTokenizer(lambda: espeak, table, add_blank)
        ids = [speaking.ids(row) for row in speaking.phones([text])]
        in_training = TextTokenizer(GraphemePhonemizer, table, add_blank).ids(tuple(phones))
        assert ids == [in_training] == [table.encode(phones, add_blank)]


def test_a_frontend_is_loaded_at_the_first_text_and_once():
    loaded = []

    def load() -> Phonemizer:
        loaded.append(1)
        return GraphemePhonemizer()

    tokenizer = TextTokenizer(load, SymbolTable(["a"]), add_blank=False)
    assert tokenizer.ids(["a"]) == [1, 3, 2] and not loaded
    assert tokenizer.phones(["a"]) == tokenizer.phones(["a"]) == [["a"]] and len(loaded) == 1


def test_the_schema_and_the_table_name_the_same_frontends():
    annotation = PreprocessSettings.model_fields["phone_extractor"].annotation
    assert set(get_args(annotation)) == {*FRONTENDS, "auto"}
    for name, language in {"espeak": "en-us", "graphemes": "en-us", "auto": "en-us"}.items():
        assert isinstance(build_phonemizer(name, language), Phonemizer)


def test_graphemes_need_no_espeak():
    lines = [
        "import sys",
        "from processors.text import TextTokenizer",
        "from processors.frontends import build_phonemizer",
        "assert build_phonemizer('graphemes', 'en-us').phonemize(['a'])",
        "print(*[name for name in ('phonemizer', 'espeakng_loader') if name in sys.modules])",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
