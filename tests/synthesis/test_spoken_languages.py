"""Which language a text is read in: what the user says, else its script, else the first with a warning."""

import pytest

from synthesis.spoken_languages import choose_language, split_language_tag
from tests.conftest import Messages
from utils.errors import UserError
from utils.log import log

TRAINED = ("en-us", "cmn", "de", "ja")


@pytest.mark.parametrize(
    ("text", "given", "likely", "language"),
    [
        ("你好", "", "", "cmn"),
        ("これは", "", "", "ja"),
        ("hello", "", "", "en-us"),
        ("hello", "de", "", "de"),
        ("hello", "", "de", "de"),
        ("你好", "en", "", "en-us"),
        ("你好", "", "de", "cmn"),
        ("hello", "en-gb", "", "en-us"),
        ("12", "", "", "en-us"),
        ("한국", "", "", "en-us"),
    ],
)
def test_a_language_is_chosen(text: str, given: str, likely: str, language: str) -> None:
    assert choose_language("the text", text, given, TRAINED, likely) == language


def test_a_choice_that_is_a_guess_is_a_warning() -> None:
    messages = Messages()
    log.addHandler(messages)
    try:
        for text in ("hello", "你好", "hello again"):
            choose_language("this text", text, "", TRAINED)
        choose_language("this text", "hello", "", ("en-us",))
    finally:
        log.removeHandler(messages)
    assert messages.texts[:1] == ["this text may be in en-us or de, and is read as en-us; name its language"]
    # 你好 may be Japanese, too; each message comes once.
    assert [text.split(",")[0] for text in messages.texts[1:]] == ["this text may be in cmn or ja"]


def test_a_language_that_was_not_trained_is_refused_by_name() -> None:
    for given, languages in (("fr", TRAINED), ("zh", ("en-us",)), ("xx", TRAINED)):
        with pytest.raises(UserError, match=f"the experiment was not trained on {given}, but on en-us"):
            choose_language("the text", "hello", given, languages)


def test_a_text_may_name_its_language() -> None:
    assert split_language_tag(" [language zh] 你好 [pause 1s] 。") == ("zh", "你好 [pause 1s] 。")
    assert split_language_tag(" no tag ") == ("", " no tag ")
    for text in ("hello [language zh] 你好", "[language] hello", "[language en] [language de] hello"):
        with pytest.raises(UserError, match=r"a text begins with its language, as in \[language zh\]"):
            split_language_tag(text)
