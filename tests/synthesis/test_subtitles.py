"""Subtitles: they can be parsed, have the words of the text, and follow each other."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from synthesis.subtitles import make_cues, write_subtitles
from synthesis.words import split_words

TEXT = """ So it was. They went home -> "and then" the rain came & came;
but who <would> have known that it rains on a day like this, as nobody said a word about it before? Ja,  ja."""


def timed(text: str) -> list[dict]:
    words, time = [], 0.3
    for word in text.split():
        words.append({"word": word, "start": round(time, 3), "end": round(time + 0.04 * len(word), 3)})
        time += 0.04 * len(word) + (1.0 if word.endswith(";") else 0.05)
    return words


@pytest.mark.parametrize("file_format", ["srt", "vtt"])
def test_subtitles_have_the_words_of_the_text(file_format: str, tmp_path: Path) -> None:
    words = timed(TEXT)
    path = tmp_path / f"a.{file_format}"
    write_subtitles(path, make_cues(TEXT, words, "en-us"))
    blocks = path.read_text(encoding="utf-8").strip().split("\n\n")
    if file_format == "vtt":
        assert blocks.pop(0).strip() == "WEBVTT"
    clock = r"(\d\d):(\d\d):(\d\d)[.,](\d\d\d)"
    spans, shown = [], []
    for number, block in enumerate(blocks, start=1):
        lines = block.strip().split("\n")
        if file_format == "srt":
            assert lines.pop(0) == str(number)
        match = re.fullmatch(f"{clock} --> {clock}", lines.pop(0))
        assert match is not None and ("," in match[0]) == (file_format == "srt")
        h, m, s, ms, *end = map(int, match.groups())
        spans.append((3600 * h + 60 * m + s + ms / 1000, 3600 * end[0] + 60 * end[1] + end[2] + end[3] / 1000))
        [line] = lines
        assert "-->" not in line and len(line) < 110
        shown.append(line)
    text = " ".join(shown)
    if file_format == "vtt":
        text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert text.split() == TEXT.split() and len(shown) > 3
    assert spans[0][0] == words[0]["start"] and spans[-1][1] == words[-1]["end"]
    assert all(start < end for start, end in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


@pytest.mark.parametrize(
    ("language", "text", "shown"),
    [
        ("en-us", "Dr. Lee paid $5. Then he left.", ["Dr. Lee paid $5.", "Then he left."]),
        (
            "en-us",
            "It was 9 a.m. on Jan. 5 in St. Louis, e.g. there!",
            ["It was 9 a.m. on Jan. 5 in St. Louis, e.g. there!"],
        ),
        ("en-us", 'He said "No." She left! Why?', ['He said "No."', "She left!", "Why?"]),
        ("en-us", "Say [[həˈloʊ]] to [[dʒ. x]]. [pause 0.5s] Bye.", ["Say həˈloʊ to dʒ. x.", "Bye."]),
        ("de", "Das ist z. B. Dr. Braun. Und dann?", ["Das ist z. B. Dr. Braun.", "Und dann?"]),
    ],
)
def test_cues_end_with_sentences_and_show_no_marks(language: str, text: str, shown: list[str]) -> None:
    words, time = [], 0.0
    for word in split_words(text):
        words.append({"word": word.strip(), "start": time, "end": time + 0.1})
        time += 0.1
    assert [cue.text for cue in make_cues(text, words, language) if cue.text] == shown


def test_hours_and_no_words() -> None:
    assert make_cues("", [], "en-us") == []
    [cue] = make_cues(
        "a b", [{"word": "a", "start": 3661.5, "end": 3661.6}, {"word": "b", "start": 3661.7, "end": 3662}], "en-us"
    )
    assert (cue.text, cue.start, cue.end) == ("a b", 3661.5, 3662)
