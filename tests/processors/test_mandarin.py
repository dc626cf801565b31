"""Mandarin phones: pypinyin's own, and the tones that change between words."""

import pickle

import pytest

from processors.frontends import build_phonemizer
from processors.frontends.base import Phonemizer
from processors.text_to_phones import TextToPhones
from tests.processors.test_text_to_phones import settings_with
from utils.errors import UserError

pypinyin = pytest.importorskip("pypinyin")
rjieba = pytest.importorskip("rjieba")


@pytest.fixture(scope="module")
def mandarin() -> Phonemizer:
    return build_phonemizer("pypinyin", "cmn")


def phones(mandarin: Phonemizer, text: str) -> str:
    return " ".join(mandarin.phonemize([text])[0])


def pinyin_of(words: list[str], tone_sandhi: bool) -> str:
    """pypinyin's own initials and finals."""
    options = {"strict": True, "tone_sandhi": tone_sandhi, "neutral_tone_with_five": True}
    initials, finals = (
        pypinyin.lazy_pinyin(words, style=style, **options)
        for style in (pypinyin.Style.INITIALS, pypinyin.Style.FINALS_TONE3)
    )
    return " ".join(part for pair in zip(initials, finals, strict=True) for part in pair if part)


def test_every_syllable_is_that_of_pypinyin(mandarin: Phonemizer) -> None:
    characters = [chr(code) for code in range(0x4E00, 0x9FA5, 41) if code in pypinyin.pinyin_dict.pinyin_dict]
    for character, own in zip(characters, mandarin.phonemize(characters), strict=True):
        assert " ".join(own) == pinyin_of([character], tone_sandhi=False) or len(own) == 1, character


@pytest.mark.parametrize(
    "text",
    [
        "今天天气非常好",
        "重庆要开重要的会议",
        "你好世界",
        "我们明天去北京看展览馆",
        "他觉得音乐非常好听",
        "绿色的女孩子学习语言",
        "老师说这个问题不是问题",
        "请吃一个苹果",
        "小老虎喜欢喝水",
        "展览馆没有人",
    ],
)
def test_sentences_have_the_phones_of_pypinyin(mandarin: Phonemizer, text: str) -> None:
    [own] = mandarin.phonemize([text])
    assert " ".join(phone for phone in own if phone != "_") == pinyin_of(rjieba.cut(text), tone_sandhi=True)


@pytest.mark.parametrize(
    ("text", "tones"),
    [
        # pypinyin's rules end at the end of a word, and do not know numbers.
        ("他不去", "124"),
        ("他不来", "142"),
        ("我很好", "223"),
        ("老保管", "323"),
        ("保管好", "223"),
        ("我想买两把雨伞", "2332323"),
        ("好，好", "33"),
        ("一定", "24"),
        ("一天", "41"),
        ("一起", "43"),
        ("看一看", "454"),
        ("第一次", "414"),
        ("统一中国", "3112"),
        ("一月一日", "1414"),
        ("一九九一年", "12312"),
        ("二十一个人", "42142"),
        ("三千一百", "1143"),
        ("银行行长", "2223"),
        ("水果汁", "231"),
        ("请给我水", "2323"),
    ],
)
def test_tones_are_those_that_are_spoken(mandarin: Phonemizer, text: str, tones: str) -> None:
    assert "".join(filter(str.isdigit, phones(mandarin, text))) == tones


def test_tones_stay_distinct(mandarin: Phonemizer) -> None:
    assert [phones(mandarin, one) for one in "妈麻马骂吗"] == ["m a1", "m a2", "m a3", "m a4", "m a5"]


def test_full_width_marks_are_marks(mandarin: Phonemizer) -> None:
    wide = "“你好，世界！”他说：（真的？）……《红楼梦》；完。"
    assert phones(mandarin, wide) == phones(mandarin, '"你好,世界!"他说:(真的?)……"红楼梦";完.')
    assert phones(mandarin, "“好，”他说。") == '" h ao3 , " _ t a1 _ sh uo1 .'


def test_what_pypinyin_cannot_read_is_named(mandarin: Phonemizer) -> None:
    refusal = mandarin.refusal("the text", "你好\n用 ＡPP 和かな")
    assert "A (LATIN CAPITAL LETTER A), P (LATIN CAPITAL LETTER P, line 2), か (HIRAGANA LETTER KA, line 2)" in str(
        refusal
    )
    assert mandarin.unreadable("3个") == ["3"] and mandarin.unreadable("三个〇，㐀！") == []


def test_numbers_and_inline_pinyin_are_read() -> None:
    reader = TextToPhones.from_settings(settings_with(phone_extractor="pypinyin", language="zh"))
    assert reader.phonemize(["我有3个 [[ping2 guo3]]。"]) == reader.phonemize(["我有三个 [[ping2 guo3]]。"])
    assert " ".join(reader.phonemize(["[[ping2 guo3 lve4]]"])[0]) == "p ing2 _ g uo3 _ l ve4"


def test_it_can_be_pickled_and_refuses_other_languages(mandarin: Phonemizer) -> None:
    assert phones(pickle.loads(pickle.dumps(mandarin)), "好") == "h ao3"
    with pytest.raises(UserError, match=r"preprocess\.phone_extractor: pypinyin reads cmn alone, .* is en-us"):
        build_phonemizer("pypinyin", "en")
