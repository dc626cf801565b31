"""Text normalization against tables of what people write, and its properties on any text."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.normalization import language_sections, normalize
from processors.normalization.engine import apply
from processors.normalization.markup import drop_emoji, fold_characters, strip_markup
from tests.conftest import ROOT

TABLES = Path(__file__).parent
LANGUAGES = {"en": "en-us", "de": "de", "fr": "fr-fr", "es": "es", "zh": "cmn", "ja": "ja"}
LEAST_CASES = {"en": 300, "de": 60, "fr": 60, "es": 60, "zh": 60, "ja": 60}
# Cases that the rules do not reach: "twelve volts battery", and a name that is spelled, which sounds the same.
KNOWN_WRONG = {"12V battery", "https://www.sncf.com"}
PLAIN = sorted((ROOT / "egs" / "tts" / "VALLE" / "pretrained" / "recipe").glob("sentences_*.txt"))
MIXTURE = (
    "hello the Dr. St. J. I A 3 12 1998 2005 1,234 .5 -5 0 007 3.14 1/2 ½ ² 5km % $ $5 € £2m 10-20 10:30 am p.m. Jan. "
    "May 5th 1980s ' \" ( ) [ ] * ** _ __ ` # #a @b & &amp; &lt; < > <b> </b> = + x × / \\ | ~ ^ : ; , . ! ? … — – - "
    "🎉 ❤️ VIII II NASA NYC U.S. e.g. etc. www.a.com a@b.io http://x.y/z1 a1b2 C-3 12/25/2023 2024-01-05 +1 "
    "555-123-4567 No. p. Ⅳ ② ٣ １ ፩ 五 3個 \n 年 [[h@l'oU]] [pause,0.5s] \ue000 \U000f0000"
)
PIECES = MIXTURE.split(" ")


def cases(name: str) -> list[tuple[str, str]]:
    """What is written and what is spoken; a backslash and an n are a line end."""
    lines = (TABLES / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines if line and not line.startswith("//")]
    return [(written.replace("\\n", "\n"), spoken) for written, spoken in pairs]


def compared(text: str) -> str:
    """A text without what does not change how it is read: case, hyphens, white space and the stop at its end."""
    return " ".join(re.sub(r"(?<=\w)-(?=\w)", " ", text.casefold()).split()).rstrip(".。")


def random_texts(num: int) -> list[str]:
    rng = random.Random(7)
    return [
        "".join(rng.choice(PIECES) + rng.choice(["", " ", " "]) for _ in range(rng.randrange(9))) for _ in range(num)
    ]


@pytest.mark.parametrize("name", LANGUAGES)
def test_texts_are_read_as_a_careful_reader_would(name: str) -> None:
    table = cases(name)
    assert len(table) >= LEAST_CASES[name]
    wrong = []
    for written, expected in table:
        spoken = normalize(written, LANGUAGES[name])
        if compared(spoken) != compared(expected):
            wrong.append(written)
            print(f"{written!r}\n    expected {expected}\n    got      {spoken}")
    assert len(wrong) <= 0.05 * len(table)
    assert set(wrong) <= KNOWN_WRONG


@pytest.mark.parametrize("language", ["en-us", "en-gb"])
def test_sentences_without_anything_to_normalize_stay(language: str) -> None:
    sentences = [line for path in PLAIN for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(sentences) == 120
    assert [normalize(sentence, language) for sentence in sentences] == sentences


@pytest.mark.parametrize("name", LANGUAGES)
def test_what_is_spoken_is_not_normalized_again(name: str) -> None:
    language = LANGUAGES[name]
    for text in [written for written, _ in cases(name)] + random_texts(300):
        spoken = normalize(text, language)
        assert normalize(spoken, language) == spoken


@pytest.mark.parametrize("name", LANGUAGES)
def test_sections_are_only_skipped_where_no_rule_matches(name: str) -> None:
    for text, _ in cases(name):
        plain = fold_characters(strip_markup(text, "."))
        spoken = plain
        for section in language_sections(LANGUAGES[name]):
            changed = apply(section.rules, spoken)
            assert changed == spoken or section.needs.search(spoken), (text, spoken, changed)
            spoken = changed


@settings(max_examples=300, deadline=None)
@given(
    number=st.one_of(
        st.integers(-(10**20), 10**20).map(str),
        st.integers(0, 10**12).map(lambda value: f"{value:,}"),
        st.decimals(-(10**6), 10**6, places=3, allow_nan=False).map(str),
        st.from_regex(r"[0-9]{1,4}[-/:.,x][0-9]{1,4}([-/:.,][0-9]{1,4})?", fullmatch=True),
        st.from_regex(r"[$€£]?[0-9]{1,5}(\.[0-9]{1,2})?(km|%|kg|m|k|th|s|°C|pm)?", fullmatch=True),
    ),
    frame=st.sampled_from(["{}", "I saw {}.", "({})", "the {} of them", "x{}y", "{}, {} and {}", "in {}"]),
    name=st.sampled_from(sorted(LANGUAGES)),
)
def test_no_digit_is_left(number: str, frame: str, name: str) -> None:
    spoken = normalize(frame.format(*[number] * frame.count("{}")), LANGUAGES[name])
    assert not any(character.isdigit() for character in spoken), spoken


def test_digits_of_other_scripts_are_read() -> None:
    for text in ("٣ ६ ፩ １２ ② Ⅳ₂", "10⁵ x⁹ m² 5½ ⅞"):
        assert not any(character.isdigit() for character in normalize(text, "en-us"))


@pytest.mark.parametrize("name", LANGUAGES)
def test_inline_phones_and_pauses_stay(name: str) -> None:
    protected = ["[[həˈloʊ 5% *x* Dr.]]", "[pause 0.5s]", "[[$5]]"]
    for around in ("{} costs $5 {} and 3 {}", "**{}** {}, {}!", "{}{}{}", "- {}\n- {}\n# {}"):
        spoken = normalize(around.format(*protected), LANGUAGES[name])
        assert re.findall(r"\[\[.*?\]\]|\[pause.*?\]", spoken) == protected


def test_slashed_dates_follow_the_country() -> None:
    assert normalize("on 3/4/2025", "en-us") == "on March fourth, twenty twenty-five"
    assert normalize("on 3/4/2025", "en-gb") == "on April third, twenty twenty-five"


def test_other_languages_get_their_numbers() -> None:
    assert normalize("Ho 3 gatti e 1.000 euro.", "it") == "Ho tre gatti e mille euro."
    assert normalize("У меня 3 кошки 🎉", "ru") == "У меня три кошки"
    # A language that num2words does not have: the phonemizer reads the number.
    assert normalize("**3** kilo", "xx") == "3 kilo"


def test_markup_goes_even_where_nothing_else_is_done() -> None:
    assert strip_markup("<p>One <b>two</b></p>", ".").split() == ["One", "two"]
    # What only looks like markup stays.
    for text in ("a <b and c> d", "2 * 3 * 4", "snake_case_name", "5 < 6"):
        assert strip_markup(text, ".") == text
    assert drop_emoji("ok 👍🏽!") == "ok !"
