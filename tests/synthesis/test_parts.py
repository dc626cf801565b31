"""A text is split into short enough parts at the best places, without loss, and their audio is joined exactly."""

import re

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from processors.frontends import build_phonemizer
from processors.frontends.graphemes import GraphemePhonemizer
from synthesis.parts import Cut, Part, join_part, split_text
from utils.errors import UserError
from utils.prompts import find_sound

RATE = 24000
phonemize = GraphemePhonemizer().phonemize
# Each is one word, which must not be cut.
ATOMS = ("3.5", "1,000", "10:30", "z.B.", "[[həˈloʊ, wɜːld. a b]]", "https://a.example/b,c?d=e;f", "don't", "é́t")
MARKS = (". ", "! ", "? ", ", ", "; ", ": ", " - ", "— ", "…", "\n", "\n\n", " ", " ", '." ', ") (", " [pause 0.25s] ")
words = st.one_of(st.sampled_from(ATOMS), st.text("abcABCäß", min_size=1, max_size=12))
written = st.lists(st.tuples(words, st.sampled_from(MARKS)), max_size=40).map(
    lambda pairs: "".join(word + mark for word, mark in pairs)
)
# Words that belong together; a cut between them is the last resort.
PHRASES = (
    *("$5 million", "20 km", "9:30 p.m.", "twenty dollars", "3 percent", "Jan. 5", "5 May 2020", "St. John", "Dr. Lee"),
    *("Henry VIII", "Rocky IV", "No. 12", "USD 30", "Chapter 5"),
)
sentences = st.lists(
    st.tuples(st.text("xyz", min_size=3, max_size=8), st.sampled_from(PHRASES), st.sampled_from((" ", ", ", ". Xyz "))),
    max_size=20,
).map(lambda rows: "".join(f"{word} {phrase}{mark}" for word, phrase, mark in rows))
pause = re.compile(r"\[pause [^\]]*\]")


def split(text: str, max_phones: float = 60, language: str = "en") -> list[Part]:
    return split_text(text, phonemize, max_phones, language)[1]


def texts(text: str, max_phones: float = 60, language: str = "en") -> list[str]:
    return [part.text for part in split(text, max_phones, language)]


def check_parts(text: str, max_phones: int) -> None:
    """The properties that the split of any text has."""
    stripped, parts = text.strip(), split(text, max_phones)
    end = 0
    for part in parts:
        assert part.text == part.text.strip() == stripped[part.start : part.start + len(part.text)]
        # Between the parts nothing can be spoken.
        between = pause.sub("", stripped[end : part.start])
        assert not any(phone.isalnum() for phone in phonemize([between])[0])
        end = part.start + len(part.text)
        [phones] = phonemize([part.text])
        assert any(phone.isalnum() for phone in phones)
        # A part that is too long has no place to be cut at before its last letter: no space, no ideographs.
        inside = re.sub(r"\[\[.*?\]\]", "", part.text).rstrip('—… .!?,;:()-"')
        assert len(phones) <= max_phones or not re.search(r"\s|[—…]|[\u3040-\u9fff]{2}|[！？；、]", inside)
    assert not any(phone.isalnum() for phone in phonemize([pause.sub("", stripped[end:])])[0])
    assert parts == sorted(parts, key=lambda part: part.start)
    if parts:
        assert parts[-1].cut == Cut.SECTION


@given(st.text(max_size=300), st.integers(3, 80))
@example("a\ud800b. C\x00d", 3)
@example("a.b!c?d", 3)
@example("…" * 100 + "a" + "." * 100, 10)
@settings(max_examples=300, deadline=None)
def test_the_parts_of_any_unicode_are_the_text(text: str, max_phones: int) -> None:
    if not re.search(r"\[\s*pause\b", text, re.IGNORECASE):
        check_parts(text, max_phones)


@given(written, st.integers(10, 80))
@settings(max_examples=300, deadline=None)
def test_no_word_number_or_phones_are_cut(text: str, max_phones: int) -> None:
    check_parts(text, max_phones)
    parts = split(text, max_phones)
    for atom in ATOMS:
        # The word is in one part each time. It is counted with what stands beside it, as "abc3.5" holds "3.5".
        assert sum(part.text.count(atom) for part in parts) == text.count(atom)


@given(sentences, st.integers(20, 80))
@settings(max_examples=200, deadline=None)
def test_no_phrase_is_cut(text: str, max_phones: int) -> None:
    parts = split(text, max_phones)
    assert all(part.num_phones <= max_phones + 1 for part in parts)
    for phrase in PHRASES:
        assert sum(part.text.count(phrase) for part in parts) == text.count(phrase)


@pytest.mark.parametrize("phrase", PHRASES)
def test_phrases_are_cut_if_nothing_else_helps(phrase: str) -> None:
    words = phrase.split()
    assert texts(phrase, max(map(len, words)) + 1) == words


@pytest.mark.parametrize(
    ("language", "phrase"),
    [("de", "5 Mio. Euro"), ("de", "3. Mai"), ("fr", "5 mai 2020"), ("fr", "Louis XIV"), ("es", "5 de enero de 2020")],
)
def test_phrases_of_other_languages_are_not_cut(language: str, phrase: str) -> None:
    for max_phones in range(len(phrase) + 1, 40):
        assert any(phrase in part for part in texts(f"aaaa bbbb cccc {phrase} dddd eeee ffff", max_phones, language))


@given(written)
@settings(max_examples=100, deadline=None)
def test_a_text_that_fits_is_one_part_for_each_section(text: str) -> None:
    sections = [section for section in re.split(r"\[pause [^\]]*\]|\n\s*\n", text) if section.strip()]
    found = texts(text, 10**6)
    assert len(found) <= len(sections)
    spoken = [section.strip() for section in sections if any(map(str.isalnum, section))]
    assert found == spoken


def test_sentences_come_before_clauses_and_clauses_before_words() -> None:
    text = "One two three. Four five, six seven, eight nine ten. Eleven twelve thirteen fourteen fifteen sixteen."
    assert texts(text, 200) == [text]
    assert texts(text, 60) == [
        "One two three. Four five, six seven, eight nine ten.",
        "Eleven twelve thirteen fourteen fifteen sixteen.",
    ]
    assert texts(text, 50)[:2] == ["One two three.", "Four five, six seven, eight nine ten."]
    by_clause = split(text, 30)
    assert [part.text for part in by_clause[:3]] == [
        "One two three. Four five,",
        "six seven, eight nine ten.",
        by_clause[2].text,
    ]
    assert [part.cut for part in by_clause] == [Cut.CLAUSE, Cut.SENTENCE, Cut.WORD, Cut.SECTION]
    # Without a cut in words, one part would be much longer than the other.
    assert [part.num_phones for part in by_clause[2:]] == [23, 26]


def test_parts_are_few_and_even() -> None:
    text = "Aaaa bbbb. Cccc dddd. Eeee ffff. Gggg hhhh."
    assert [part.num_phones for part in split(text, 35)] == [22, 22]
    # A short sentence goes to a neighbour.
    assert texts(f"{text} No.", 35) == ["Aaaa bbbb. Cccc dddd.", "Eeee ffff. Gggg hhhh. No."]


@pytest.mark.parametrize(
    ("language", "text", "wanted"),
    [
        (
            "en",
            "He met Dr. Brown at 10:30 p.m. in St. Louis. She paid $3.50.",
            ["He met Dr. Brown at 10:30 p.m. in St. Louis.", "She paid $3.50."],
        ),
        ("de", "Das ist z. B. am 3. Mai so. Und dann?", ["Das ist z. B. am 3. Mai so.", "Und dann?"]),
        ("zh", "你好。「世界！」我很好，谢谢。", ["你好。", "「世界！」", "我很好，谢谢。"]),
        ("en", "See www.example.com/a.b?c. Then go.", ["See www.example.com/a.b?c.", "Then go."]),
    ],
)
def test_sentences_end_where_they_end(language: str, text: str, wanted: list[str]) -> None:
    assert texts(text, max(len(row) for row in wanted) + 1, language) == wanted


def test_ideographs_are_cut_only_if_nothing_else_helps() -> None:
    text = "你好世界你好世界，你好世界。你好"
    assert texts(text, 11) == ["你好世界你好世界，", "你好世界。你好"]
    assert "".join(texts(text, 6)) == text and max(map(len, texts(text, 6))) <= 5
    assert texts("今天１０：３０见面", 8) == ["今", "天１０：３０见", "面"]


def test_abbreviations_and_numbers_with_spaces_stay_together() -> None:
    found = texts("aaaa bbbb cccc J. R. R. Tolkien dddd 10 000 000 eeee ffff", 24)
    for name in ("J. R. R. Tolkien", "10 000 000"):
        assert any(name in part for part in found)
    # Still, no part is too long: there are texts of numbers alone.
    assert max(part.num_phones for part in split("1 2 3 4 5 6 7 8 9 " * 10, 24)) <= 24


def test_what_cannot_be_spoken_is_never_a_part_of_its_own() -> None:
    assert texts("...") == texts(" \n ") == texts("") == texts("[pause 1s]") == []
    assert texts("— … Hello. … … (!)", 30) == ["— … Hello. … … (!)"]
    assert texts("One.\n\n* * *\n\nTwo.") == ["One.", "Two."]


def test_a_pause_is_a_boundary_and_pauses_add_up() -> None:
    lead, parts = split_text("[pause 1s] A b. [pause 0.5s][Pause .25S]\n\n c [pause 2 s]", phonemize, 60, "en")
    assert lead == 1.0
    assert [(part.text, part.pause_seconds) for part in parts] == [("A b.", 0.75), ("c", 2.0)]
    for wrong in ("[pause]", "a [pause 5] b", "[pause 61s]", "[pause -1s]", "[pause one second]"):
        with pytest.raises(UserError, match=r"takes a length of at most 60 s, as in \[pause 0.5s\]"):
            split_text(wrong, phonemize, 60, "en")
    assert texts("[[pause 9]]") == ["[[pause 9]]"] and texts("a [pauses] b") == ["a [pauses] b"]


def test_pauses_grow_with_the_boundary() -> None:
    parts = split("Aaaaaaaa, bbbbbbbb; cccccccc dddddddd. Eeeeeeee.\n\nFfffffff.", 10)
    pauses = [part.pause_seconds for part in parts]
    comma, semicolon, word, sentence, paragraph, end = pauses
    assert word == end == 0 < comma < semicolon < sentence < paragraph
    assert [part.overlaps for part in parts] == [False, False, True, False, False, False]


def test_phones_of_espeak_are_counted_for_a_book_in_bounded_calls() -> None:
    calls = []
    espeak = build_phonemizer("espeak", "en-us")

    def counted(rows):
        calls.append(len(rows))
        return espeak.phonemize(rows)

    text = "The first sentence is short. The second one, however, goes on for a while, and then it ends. " * 600
    _, parts = split_text(text, counted, 60, "en")
    assert max(calls) <= 1000 < len(parts)
    lens = [len(phones) for phones in espeak.phonemize([part.text for part in parts])]
    assert max(lens) <= 60 and sum(lens) / len(lens) > 30


def tone(seconds: float, quiet: tuple[float, float] = (0.2, 0.3)) -> torch.Tensor:
    """A tone with silence before and after it."""
    samples = 0.5 * torch.sin(torch.arange(round(seconds * RATE)) * 0.1)
    front, back = (torch.zeros(round(silence * RATE)) for silence in quiet)
    return torch.cat([front, samples, back])


def join(pieces: list[torch.Tensor], parts: list[Part], lead: int = 0) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """The joined audio, and where each part begins and ends in it."""
    blocks, spans, overlap, position = [torch.zeros(lead)], [], torch.zeros(0), lead
    for index, (audio, part) in enumerate(zip(pieces, parts, strict=True)):
        is_first, is_last = index == 0 and not lead, index == len(parts) - 1
        block, overlap, num, _ = join_part(audio, part, RATE, overlap, is_first, is_last)
        spans.append((position, position + num))
        position += len(block)
        blocks.append(block)
    assert not len(overlap)
    return torch.cat(blocks), spans


def test_pauses_are_exact_to_the_sample() -> None:
    parts = [
        Part("a", 0, 1, Cut.SECTION, 0.5),
        Part("b", 2, 1, Cut.SECTION, 0.12345),
        Part("c", 4, 1, Cut.SECTION, 1.0),
    ]
    audio, spans = join([tone(0.4), tone(0.3), tone(0.5)], parts, lead=777)
    ends = [*(start for start, _ in spans[1:]), len(audio)]
    for (_, end), start, seconds in zip(spans, ends, (0.5, 0.12345, 1.0), strict=True):
        assert start - end == round(seconds * RATE)
        assert not audio[end:start].any()
    assert not audio[:777].any() and spans[0][0] == 777
    # The parts' own silence at joins is cut to 50 ms, and the tones keep their level.
    for (start, end), seconds in zip(spans, (0.4, 0.3, 0.5), strict=True):
        assert (end - start) / RATE == pytest.approx(seconds + 0.1, abs=0.03)
        assert audio[start:end].abs().max() == pytest.approx(0.5, abs=1e-3)


def test_parts_that_end_within_a_clause_overlap() -> None:
    parts = [Part("a", 0, 1, Cut.WORD), Part("b", 2, 1, Cut.SECTION)]
    loud = 0.5 * torch.ones(RATE)
    audio, spans = join([loud, loud], parts)
    fade = RATE // 100
    assert spans == [(0, RATE), (RATE - fade, 2 * RATE - fade)] and len(audio) == 2 * RATE - fade
    # The gains of a cross-fade add up to 1, so a constant stays constant.
    torch.testing.assert_close(audio, 0.5 * torch.ones(len(audio)))


def test_audio_of_one_part_and_outer_ends_are_not_changed() -> None:
    audio = tone(0.3)
    alone, spans = join([audio], [Part("a", 0, 1, Cut.SECTION)])
    assert torch.equal(alone, audio) and spans == [(0, len(audio))]
    joined, _ = join([audio, audio], [Part("a", 0, 1, Cut.SENTENCE, 0.1), Part("b", 2, 1, Cut.SECTION)])
    num = round(0.4 * RATE)
    assert torch.equal(joined[:num], audio[:num]) and torch.equal(joined[-num:], audio[-num:])


@given(st.lists(st.integers(500, 2000), min_size=2, max_size=5), st.sampled_from([Cut.WORD, Cut.SENTENCE]))
@settings(max_examples=50, deadline=None)
def test_audio_of_any_length_is_joined(lens: list[int], cut: Cut) -> None:
    parts = [Part("a", index, 1, cut) for index in range(len(lens) - 1)] + [Part("a", len(lens), 1, Cut.SECTION)]
    rng = np.random.default_rng(0)
    pieces = [torch.from_numpy(rng.uniform(-1, 1, num).astype(np.float32)) for num in lens]
    audio, spans = join(pieces, parts)
    assert spans[-1][1] == len(audio) and torch.isfinite(audio).all() and audio.abs().max() <= 1
    assert all(end > start for start, end in spans)
    assert find_sound(audio.numpy(), RATE).ndim == 1
