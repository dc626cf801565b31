"""Names of languages, and which language a text may be in."""

import subprocess
import sys

import pytest

from processors.frontends import build_phonemizer
from processors.frontends.espeak_library import espeak_languages
from processors.languages import _ALIASES, language_code, language_name, may_be_in
from processors.symbols import SymbolTable, join_phones, language_of_symbol, language_symbol
from tests.conftest import ROOT


def test_every_alias_is_of_a_voice_and_every_voice_is_its_own_name() -> None:
    voices = espeak_languages()
    assert set(_ALIASES.values()) <= set(voices)
    assert [language_name(voice) for voice in voices] == voices
    assert not set(_ALIASES) & set(voices)


@pytest.mark.parametrize(
    ("name", "voice", "code"),
    [
        ("en", "en-us", "en"),
        ("en_US", "en-us", "en"),
        ("zh", "cmn", "zh"),
        ("zh-CN", "cmn", "zh"),
        ("jp", "ja", "ja"),
        ("fr", "fr-fr", "fr"),
        ("de", "de", "de"),
        ("nb", "nb", "no"),
        ("klingon", "klingon", "klingon"),
        ("", "", ""),
    ],
)
def test_names(name: str, voice: str, code: str) -> None:
    assert (language_name(name), language_code(name)) == (voice, code)


@pytest.mark.parametrize("name", ["en", "en_US", "fr", "DE"])
def test_an_alias_reads_as_the_voice(name: str) -> None:
    [alias, voice] = (build_phonemizer("espeak", one) for one in (name, language_name(name)))
    assert alias.phonemize(["a table, 12"]) == voice.phonemize(["a table, 12"])


def test_the_script_of_a_text_tells_its_language() -> None:
    languages = ["cmn", "de", "en-us", "ja", "ru"]
    assert may_be_in("hello, world", languages) == ["de", "en-us"]
    assert may_be_in("这是 GPT。", languages) == ["cmn", "ja"]
    assert may_be_in("これはGPTです", languages) == ["ja"]
    assert may_be_in("Привет", languages) == ["ru"]
    assert may_be_in("한국", languages) == []
    assert may_be_in("12 !?", languages) == languages


def test_a_language_symbol_is_a_phone_that_no_text_has() -> None:
    table = SymbolTable.from_phones(["a", "b", "_", "<eps>", language_symbol("en-us")])
    assert [language_of_symbol(phone) for phone in (*table.phones, "<pad>", "<")] == [
        "en-us" if phone == "<en-us>" else None for phone in (*table.phones, "<pad>", "<")
    ]
    english, chinese = ["<en-us>", "a"], ["<cmn>", "b"]
    assert join_phones(english, english) == ["<en-us>", "a", "_", "a"]
    assert join_phones(english, chinese) == ["<en-us>", "a", "_", "<cmn>", "b"]
    assert join_phones(join_phones(english, chinese), chinese)[-3:] == ["b", "_", "b"]
    assert join_phones(["a"], ["b"]) == ["a", "_", "b"]


@pytest.mark.parametrize(("extractor", "language", "extra"), [("pypinyin", "zh", "zh"), ("auto", "ja", "ja")])
def test_a_missing_library_is_one_line_with_the_command(extractor: str, language: str, extra: str) -> None:
    script = (
        "import sys; sys.modules['pypinyin'] = sys.modules['pyopenjtalk'] = None\n"
        f"from processors.frontends import build_phonemizer\nbuild_phonemizer('{extractor}', '{language}')"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    line = run.stderr.strip().splitlines()[-1]
    assert line.startswith("processors.frontends.base.MissingExtraError: preprocess.phone_extractor: py")
    assert line.endswith(f'install it with pip install ".[{extra}]"')
