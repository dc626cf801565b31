"""Suspects in a text, and the times of its words."""

from hypothesis import given
from hypothesis import strategies as st

from web.word_marks import PROBLEMS, marked_text, time_rows, word_notes

TEXT = "The bird, the other bird\nand  the bird."
WORDS = [{"word": word, "start": float(index), "end": index + 0.5} for index, word in enumerate(TEXT.split())]


def test_a_suspect_is_marked_where_it_was_heard() -> None:
    suspects = [
        {"problem": "skipped", "word": "bird", "time": 4.2},
        {"problem": "tail", "word": "bird.", "time": 7.4},
        {"problem": "repeated", "word": "bird", "time": 4.0},
        {"problem": "skipped", "word": "absent", "time": 0.0},
    ]
    notes = word_notes(WORDS, suspects)
    assert notes == ["", "", "", "", "perhaps skipped, perhaps repeated", "", "", "followed by something else"]
    pieces = marked_text(TEXT, WORDS, notes)
    assert pieces == [
        ("The bird, the other ", None),
        ("bird", "perhaps skipped, perhaps repeated"),
        ("\nand  the ", None),
        ("bird.", "followed by something else"),
    ]
    assert time_rows(WORDS, notes)[4] == ["bird", "4.00", "4.50", "perhaps skipped, perhaps repeated"]


@given(st.lists(st.tuples(st.sampled_from(sorted(PROBLEMS)), st.integers(0, 7), st.floats(0, 8)), max_size=5))
def test_the_marked_text_is_the_text(found: list[tuple[str, int, float]]) -> None:
    suspects = [{"problem": problem, "word": WORDS[index]["word"], "time": time} for problem, index, time in found]
    notes = word_notes(WORDS, suspects)
    pieces = marked_text(TEXT, WORDS, notes)
    assert "".join(piece for piece, _ in pieces) == TEXT
    assert [note for _, note in pieces if note] == [note for note in notes if note]
    assert bool(suspects) == any(notes)
