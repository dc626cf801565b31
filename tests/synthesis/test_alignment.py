"""The paths of frames over phones, and what they find in attention that is made up."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contract import Reading, TokenizedRequest
from processors.frontends.graphemes import GraphemePhonemizer
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from synthesis.aligner import Alignment, TextAligner
from synthesis.alignment import attention_of_frames, diagonality, free_path, log_scores, monotone_path
from synthesis.suspects import Suspect
from synthesis.words import Word, find_owners, find_times, split_words

RATE_HZ = 50
TOKENIZER = TextTokenizer(GraphemePhonemizer, SymbolTable.from_phones("abcdefghijklmnopqrstuvwxyz_.,'"), False)
PROMPT, TEXT = "a quiet dog", "the small green birds sing."


def matrices(most_frames: int = 6, most_phones: int = 4) -> st.SearchStrategy[np.ndarray]:
    sizes = st.tuples(st.integers(1, most_frames), st.integers(1, most_phones), st.integers(0, 10**6))
    return sizes.map(lambda size: np.random.default_rng(size[2]).normal(size=size[:2]))


def sum_of(scores: np.ndarray, path: np.ndarray) -> float:
    return float(scores[np.arange(len(path)), path].sum())


@settings(max_examples=100, deadline=None)
@given(matrices())
def test_the_monotone_path_is_the_best_of_all(scores: np.ndarray) -> None:
    num_frames, num_phones = scores.shape
    path = monotone_path(scores)
    if num_frames == 1:
        assert path.tolist() == [scores[0].argmax()]
        return
    most = -(-(num_phones - 1) // (num_frames - 1))

    def is_allowed(one: tuple[int, ...]) -> bool:
        return one[0] == 0 and one[-1] == num_phones - 1 and all(0 <= b - a <= most for a, b in pairwise(one))

    allowed = [np.array(one) for one in product(range(num_phones), repeat=num_frames) if is_allowed(one)]
    assert is_allowed(tuple(path)) and sum_of(scores, path) == pytest.approx(
        max(sum_of(scores, one) for one in allowed)
    )
    assert (monotone_path(np.stack([scores[::-1], scores]))[1] == path).all()


@settings(max_examples=60, deadline=None)
@given(matrices(5, 4), st.integers(0, 3), st.sampled_from([0.3, 1.0, 3.0]), st.sampled_from([0.5, 2.0]))
def test_the_free_path_is_the_best_with_its_jumps_paid(
    scores: np.ndarray, start: int, forward: float, backward: float
) -> None:
    num_frames, num_phones = scores.shape
    start = min(start, num_phones - 1)

    def cost(before: int, after: int) -> float:
        return backward if after < before else forward if after > before + 1 else 0.0

    def total(one: tuple[int, ...]) -> float:
        first = 0.0 if one[0] == start else forward if one[0] > start else backward
        return sum_of(scores, np.array(one)) - first - sum(cost(a, b) for a, b in pairwise(one))

    path = free_path(scores, start, forward, backward)
    best = max(total(one) for one in product(range(num_phones), repeat=num_frames))
    assert total(tuple(path)) == pytest.approx(best)


def test_a_head_that_follows_the_text_is_told_from_others() -> None:
    num_frames, num_phones = 60, 12
    diagonal = np.exp(-np.abs(np.arange(num_phones) - np.arange(num_frames)[:, None] / 5))
    stuck = np.zeros((num_frames, num_phones)) + (np.arange(num_phones) == 3)
    rng = np.random.default_rng(0)
    noise = rng.random((num_frames, num_phones))
    heads = np.stack([diagonal, diagonal[::-1], stuck, np.ones_like(stuck), noise])
    scores = diagonality(heads / heads.sum(-1, keepdims=True))
    assert 0.5 < scores[0] <= 1 and (scores[1:] < 0.25).all()


@pytest.mark.parametrize(("step", "num_frames"), [(1, 9), (2, 18), (2, 17), (4, 33)])
def test_frames_have_the_attention_of_their_steps(step: int, num_frames: int) -> None:
    num_steps = -(-num_frames // step)
    attention = np.random.default_rng(0).dirichlet(np.ones(5), (3, num_steps))
    frames = attention_of_frames(attention, step, num_frames)
    assert frames.shape == (num_frames, 5) and np.allclose(frames.sum(1), 1)
    mean = attention.mean(0)
    if step == 1:
        assert np.allclose(frames, mean)
    else:
        # The two frames beside a step's centre are as far from it.
        middle = frames[step : 2 * step].mean(0)
        assert np.abs(middle - mean[1]).max() < np.abs(mean[[0, 2]] - mean[1]).max()


def aligned(frames_of: list[tuple[int, int]]) -> tuple[tuple[Word, ...], tuple[Suspect, ...], Alignment]:
    """Word times and suspects of made-up attention: (id, frames) one after another, counted from the first id."""
    phones = TOKENIZER.phones([PROMPT, TEXT])
    ids = TOKENIZER.ids([*phones[0], "_", *phones[1]])
    request = TokenizedRequest(ids, len(phones[0]) + 2, torch.zeros(10, 1, dtype=torch.long), len(phones[1]))
    order = [index for index, num in frames_of for _ in range(num)]
    attention = np.full((2, 10 + len(order), len(ids)), 0.02)
    attention[:, 10 + np.arange(len(order)), order] += 1
    attention /= attention.sum(-1, keepdims=True)
    aligner = TextAligner(TOKENIZER, RATE_HZ, lambda: None)
    reading = Reading(torch.zeros(len(order) + 1), torch.from_numpy(attention).float())
    alignment = aligner.align(request, reading, continual=False, frames_per_step=1)
    [(words, suspects)] = aligner.find_words([TEXT], [alignment])
    return words, suspects, alignment


def spoken(*pieces: str) -> list[tuple[int, int]]:
    """Four frames for each character of pieces of the text, in the order in which they are given."""
    first = len(TOKENIZER.phones([PROMPT])[0]) + 2
    return [(first + TEXT.index(piece) + offset, 4) for piece in pieces for offset in range(len(piece))]


def test_clean_speech_has_word_times_and_no_suspects() -> None:
    words, suspects, alignment = aligned(spoken(TEXT))
    assert suspects == () and [word.text for word in words] == TEXT.split()
    for word in words:
        first = TEXT.index(word.text.strip("."))
        assert word.start == pytest.approx(4 * first / RATE_HZ)
        # The boundary after a word belongs to it where there is no pause.
        length = len(word.text.strip(".")) + int(word is not words[-1])
        assert word.end == pytest.approx(4 * (first + length) / RATE_HZ)
    assert alignment.coverage > 0.55


@pytest.mark.parametrize(
    ("frames", "problem", "word"),
    [
        (spoken("the small ", "birds sing."), "skipped", "green"),
        (spoken("the small green birds"), "skipped", "sing."),
        (spoken("small green birds sing."), "skipped", "the"),
        (spoken("the small green ", "small green birds sing."), "repeated", "small"),
        (spoken(TEXT, "sing."), "repeated", "sing."),
        ([*spoken(TEXT), (39, 60)], "tail", "sing."),
        ([*spoken("the small gr"), (spoken("ee")[0][0], 70), *spoken("n birds sing.")], "tail", "green"),
        ([(8, 6), (9, 6), (10, 6), *spoken(TEXT)], "prompt", "the"),
        ([*spoken("the small "), (3, 8), (4, 8), *spoken("green birds sing.")], "prompt", "green"),
    ],
)
def test_what_is_wrong_is_found(frames: list[tuple[int, int]], problem: str, word: str) -> None:
    _, suspects, alignment = aligned(frames)
    assert (problem, word) in [(suspect.problem, suspect.word) for suspect in suspects]
    assert {suspect.problem for suspect in suspects} == {problem}
    num_frames = sum(num for _, num in frames)
    assert all(0 <= suspect.time <= num_frames / RATE_HZ for suspect in suspects)
    if problem in ("skipped", "repeated"):
        assert alignment.coverage < aligned(spoken(TEXT))[2].coverage


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab .,-—[]\n新し", max_size=40))
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(split_words(text)) == (text if text.strip() else "")
    assert len(split_words("新しい本 a.b")) == 5


def test_phones_that_differ_in_the_text_belong_to_the_words_in_order() -> None:
    phones = [*"gonna", "_", *"see", ",", "_", *"twothings"]
    owners = find_owners(phones, [[*"going"], [*"to"], [*"see", ","], [], [*"two"], [*"things"]])
    assert [owner for owner in owners if owner >= 0] == sorted(owner for owner in owners if owner >= 0)
    assert owners[5] == owners[9] == -1 and set(owners[6:9]) == {2}
    assert owners[11:].tolist() == [4] * 3 + [5] * 6
    # What has no phones is shown with the word before it.
    path = np.repeat(np.arange(len(phones)), 2)
    words = find_times(path, owners, ["going ", "to ", "see, ", "— ", "two ", "things"], RATE_HZ)
    assert " ".join(word.text for word in words) == "going to see, — two things"
    assert all(a.start <= a.end <= b.start for a, b in pairwise(words))


def test_a_uniform_attention_costs_no_error() -> None:
    scores = log_scores(np.full((3, 7), 1 / 7))
    assert monotone_path(scores).tolist() == [0, 3, 6]
    assert (np.diff(free_path(scores, 2, 6, 8)) >= 0).all()
