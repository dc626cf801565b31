"""Normalizers, and the error rates of Seed-TTS-eval."""

import string
import sys

import pytest

from evaluation.measures import Ratio, interval, text_errors
from evaluation.normalizers import build_normalizer
from utils.errors import UserError


def seed_error_rate(truth: str, heard: str, language: str) -> float:
    """What run_wer.py of Seed-TTS-eval computes for a pair, with an edit distance written out."""
    for mark in "，。！？、：；“”‘’（）《》…—·" + string.punctuation:
        if mark != "'":
            truth, heard = truth.replace(mark, ""), heard.replace(mark, "")
    truth, heard = truth.replace("  ", " "), heard.replace("  ", " ")
    if language == "zh":
        truth, heard = " ".join(truth), " ".join(heard)
    else:
        truth, heard = truth.lower(), heard.lower()
    wanted, found = truth.split(), heard.split()
    distances = list(range(len(found) + 1))
    for i, word in enumerate(wanted, start=1):
        previous, distances[0] = distances[0], i
        for j, other in enumerate(found, start=1):
            change = previous + (word != other)
            previous, distances[j] = distances[j], min(change, distances[j] + 1, distances[j - 1] + 1)
    return distances[-1] / len(wanted)


ENGLISH = (
    ("We asked over twenty different people, and they all said it was his.", "We asked over 20 different people"),
    ("Don't stop - go on!", "don’t stop go on"),
    ("It is a well-known fact.", "It's a well known fact"),
    ("Yes.", ""),
)
MANDARIN = (
    ("在此，我们祝愿大家：新年好！", "在此我们祝大家新年好"),
    ("他说“你好 world”。", "他说，你好World"),
    ("二十七个，红色数字。", ""),
)


@pytest.mark.parametrize("pair", ENGLISH)
def test_english_has_the_word_error_rate_of_seed_tts_eval(pair: tuple[str, str]) -> None:
    normalizer = build_normalizer("en-us", "seed-tts-eval")
    assert text_errors(normalizer, *pair)["wer"] == Ratio(seed_error_rate(*pair, "en"))


@pytest.mark.parametrize("pair", MANDARIN)
def test_mandarin_has_the_character_error_rate_of_seed_tts_eval(pair: tuple[str, str]) -> None:
    pytest.importorskip("opencc")
    normalizer = build_normalizer("zh", "seed-tts-eval")
    assert text_errors(normalizer, *pair) == {"cer": Ratio(seed_error_rate(*pair, "zh"))}


def test_only_heard_mandarin_becomes_simplified() -> None:
    pytest.importorskip("opencc")
    normalizer = build_normalizer("cmn", "seed-tts-eval")
    assert text_errors(normalizer, "汉字传统。", "漢字，傳統")["cer"] == Ratio(0)
    assert normalizer("漢字") == "漢字" and normalizer.heard("漢字") == "汉字"
    assert normalizer.describe()["backend"].startswith("opencc ")
    assert build_normalizer("ja", "seed-tts-eval").heard("漢字 です。") == "漢字です"


@pytest.mark.parametrize("name", ["whisper", "seed-tts-eval"])
def test_languages_without_spaces_have_no_words_and_count_no_spaces(name: str) -> None:
    normalizer = build_normalizer("ja", name)
    assert text_errors(normalizer, "漢字です。", "漢字 でした")["cer"].mean == 2 / 4
    assert text_errors(normalizer, "漢字です。", "漢 字、で す").keys() == {"cer"}
    assert build_normalizer("de", name).has_words


def test_a_list_has_the_mean_of_its_texts_or_all_errors_together() -> None:
    texts = (("the cat sat down", "the cat sat down"), ("dog", "cat"))
    rates = {}
    for name in ("whisper", "seed-tts-eval"):
        normalizer = build_normalizer("en", name)
        rates[name] = interval([text_errors(normalizer, *pair)["wer"] for pair in texts])[0]
    assert rates == {"whisper": pytest.approx(1 / 5), "seed-tts-eval": pytest.approx(1 / 2)}


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opencc", None)
    with pytest.raises(UserError, match=r"needs opencc for Mandarin: pip install 'vallet\[zh\]'$"):
        build_normalizer("zh", "seed-tts-eval")
    assert build_normalizer("zh", "whisper")("你好。") == "你好"
