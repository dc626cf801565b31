"""Japanese phones: pyopenjtalk's own, with its accents."""

import pickle

import pytest

from processors.frontends import build_phonemizer
from processors.frontends.base import MARKS, Phonemizer
from processors.text_to_phones import TextToPhones
from tests.processors.test_text_to_phones import settings_with
from utils.errors import UserError

pyopenjtalk = pytest.importorskip("pyopenjtalk")
TEXTS = [
    "今日はいい天気ですね。",
    "東京都は、日本の首都です！",
    "「こんにちは」と彼は言いましたか？",
    "ラーメンを食べて、お茶を飲んだ。",
    "あのー、ええと、データベースです。",
    "学校へ行くバスは何時に来ますか。",
    "私はGPTを使う。",
]


@pytest.fixture(scope="module")
def japanese() -> Phonemizer:
    return build_phonemizer("pyopenjtalk", "ja")


def phones(japanese: Phonemizer, text: str) -> str:
    return " ".join(japanese.phonemize([text])[0])


@pytest.mark.parametrize("text", TEXTS)
def test_phones_and_accents_are_those_of_pyopenjtalk(japanese: Phonemizer, text: str) -> None:
    [own] = japanese.phonemize([text])
    spoken = [phone for phone in own if phone not in MARKS]
    assert [phone for phone in spoken if phone not in "_↑↓"] == [
        phone for phone in pyopenjtalk.g2p(text, join=False) if phone != "pau"
    ]
    # Its signs for accents, and no phrases.
    theirs = [phone for phone in pyopenjtalk.g2p_prosody(text) if phone not in ("^", "$", "_", "?", "!", "#")]
    assert [{"↑": "[", "↓": "]"}.get(phone, phone) for phone in spoken if phone != "_"] == theirs


def test_accents_stay_distinct(japanese: Phonemizer) -> None:
    assert phones(japanese, "雨が降る") != phones(japanese, "飴が降る")
    assert len({phones(japanese, text) for text in ("箸が", "橋が", "端が")}) == 3


def test_phrases_are_words_and_full_width_marks_are_marks(japanese: Phonemizer) -> None:
    assert phones(japanese, "「雨」が、降る！") == '" a ↓ m e " _ g a , _ f u ↓ r u !'
    assert phones(japanese, "そう？（はい）") == phones(japanese, "そう?(はい)")


def test_what_pyopenjtalk_cannot_read_is_named(japanese: Phonemizer, capfd) -> None:
    refusal = japanese.refusal("the text", "これは한국です")
    assert refusal is not None and "한 (HANGUL SYLLABLE HAN), 국 (HANGUL SYLLABLE GUG)" in refusal
    assert japanese.refusal("the text", "日本語 and English、３つ。") is None
    assert [japanese.phonemize([text])[0] for text in ("", " ", "。", "…！")] == [[], [], ["."], ["…", "!"]]
    assert not capfd.readouterr().err


def test_numbers_and_inline_phones_are_read() -> None:
    reader = TextToPhones.from_settings(settings_with(phone_extractor="pyopenjtalk", language="jp"))
    assert " ".join(reader.phonemize(["[[kyo↓owa]]"])[0]) == "ky o ↓ o w a"
    assert reader.phonemize(["3個"]) == reader.phonemize(["三個"])


def test_digits_of_telephone_numbers_and_codes_are_read_one_by_one(japanese: Phonemizer) -> None:
    reader = TextToPhones.from_settings(
        settings_with(phone_extractor="pyopenjtalk", language="ja", normalize_text="auto")
    )

    def sounds(text: str) -> str:
        return "".join(phone for phone in reader.phonemize([text])[0] if phone.isalpha()).lower()

    names = dict(zip("0123456789", "zero ichi ni saN yoN go roku nana hachi kyuu".lower().split(), strict=True))
    for code in ("03-1234-5678", "090-1357-9246", "0120-444-113", "〒100-0001", "007", "0919", "12345678901234567"):
        digits = "".join(names.get(character, "") for character in code)
        assert sounds(code) == ("yuubiNbaNgoo".lower() if code[0] == "〒" else "") + digits
    # A number is read as one, and its decimals one by one.
    assert sounds("1234") == "seNnihyakusaNjuuyoN".lower() and sounds("2.005") == "niteNzerozerogo".lower() + "o"


def test_it_can_be_pickled_and_refuses_other_languages(japanese: Phonemizer) -> None:
    assert phones(pickle.loads(pickle.dumps(japanese)), "雨") == "a ↓ m e"
    with pytest.raises(UserError, match=r"preprocess\.phone_extractor: pyopenjtalk reads ja alone, .* is cmn"):
        build_phonemizer("pyopenjtalk", "zh")
