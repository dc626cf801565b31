"""Candidates: each is as alone, the best goes on and no other, and the first is what a single one would be."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evaluation.candidates import add_error_rate
from models.contract import Generation, Reading, TokenizedRequest
from models.valle.valle import VALLE
from synthesis.aligner import TextAligner
from synthesis.candidates import best_of, candidate_seed, check_candidates, likelihood
from synthesis.heads import HeadChoice, choose_heads, find_heads, measure_heads
from synthesis.long_texts import LongText
from synthesis.results import synthesize_list
from synthesis.synthesizer import Request, Synthesizer
from synthesis.test_lists import ListItem
from tests.conftest import tiny_infer, tiny_model
from tests.support.delay_lm import DelayLM, DelaySettings
from tests.support.long_texts import RATE, TEXT, build_speaker, speak
from utils.audio import write_audio
from utils.errors import UserError
from utils.prompts import Prompt

NUM = 3


def with_aligner(synthesizer: Synthesizer) -> Synthesizer:
    """Word times by two heads, whether they follow the text or not."""
    choice = HeadChoice(((0, 0), (0, 1)), 1.0)
    synthesizer.aligner = TextAligner(synthesizer.tokenizer, synthesizer.codec.frame_rate_hz, lambda: choice)
    return synthesizer


@pytest.fixture
def requests() -> list[Request]:
    rows = [("so it was. and then", "a dog barks", 0.9), ("the rain came", "they went home", 1.2)]
    return [Request(text, prompt, 0.5 * torch.rand(int(seconds * RATE)) - 0.25) for text, prompt, seconds in rows]


@pytest.fixture
def prompt() -> Prompt:
    return Prompt(0.5 * torch.rand(RATE) - 0.25, "a dog barks", 1.0)


@pytest.mark.parametrize("rank_by", ["likelihood", "coverage", "asr"])
def test_each_candidate_is_as_alone_and_the_best_is_taken(codec, requests, rank_by: str, monkeypatch) -> None:
    synthesizer = with_aligner(build_speaker(codec, num_candidates=NUM, rank_by=rank_by, max_tries=1))
    # The more zeros are spoken, the better.
    synthesizer.error_rate = lambda audio, rate_hz, text: float(audio.abs().mean())
    completed: list[int] = []
    complete = VALLE.complete

    def noted(self: VALLE, items, drafts: list[Generation]) -> list[Generation]:
        completed.append(len(drafts))
        return complete(self, items, drafts)

    monkeypatch.setattr(VALLE, "complete", noted)
    together = synthesizer.synthesize(requests)
    # Without ranking by what is heard, the NAR sees what was chosen alone.
    assert completed == [NUM if rank_by == "asr" else 1] * len(requests)
    for request, speech in zip(requests, together, strict=True):
        own = synthesizer.settings.seed
        alone = []
        for number in range(NUM):
            seed = candidate_seed(own, number)
            single = build_speaker(codec, max_tries=1)
            [found] = single.synthesize([replace(request, seed=seed)])
            alone.append(found)
        assert len(speech.scores) == NUM and len(set(speech.scores)) == NUM
        chosen = alone[speech.candidate]
        assert torch.equal(speech.codes, chosen.codes) and torch.equal(speech.audio, chosen.audio)
        assert speech.stop_reason == chosen.stop_reason
        ended = [number for number in range(NUM) if alone[number].stop_reason == "eos"] or list(range(NUM))
        assert speech.candidate == max(ended, key=lambda number: speech.scores[number])
    assert len({candidate_seed(7, number) for number in range(64)}) == 64 and candidate_seed(7, 0) == 7


def test_a_text_is_tried_again_only_if_all_candidates_fail(codec, requests) -> None:
    limits = {"min_seconds": 0.1, "slack_seconds": 0.3, "max_seconds_per_phone": 1e-6}
    single = build_speaker(codec, max_tries=1, **limits)
    for seed in range(2):
        several = build_speaker(codec, num_candidates=NUM, max_tries=4, seed=seed, **limits)
        for row, request in enumerate(requests):
            # Sampled one by one: the first try in which a candidate ends, and how many did not.
            num_tries = 0
            for number in range(4):
                seeds = [candidate_seed(seed + number, candidate) for candidate in range(NUM)]
                ends = [single.synthesize([replace(request, seed=one)])[0].failure for one in seeds]
                num_tries += 1
                if None in ends:
                    break
            found = several.synthesize(requests)[row]
            assert found.num_tries == num_tries and (found.failure is None) == (None in ends)


def test_one_candidate_is_the_speech_of_before_with_and_without_word_times(codec, requests) -> None:
    plain = build_speaker(codec).synthesize(requests)
    for synthesizer in (with_aligner(build_speaker(codec)), build_speaker(codec, num_candidates=1, rank_by="coverage")):
        for before, now in zip(plain, synthesizer.synthesize(requests), strict=True):
            assert torch.equal(before.audio, now.audio) and torch.equal(before.codes, now.codes)
            assert now.scores == () and now.candidate == 0
            assert bool(now.words) == (synthesizer.aligner is not None)


def test_speech_that_ends_is_better_than_what_does_not() -> None:
    codes = torch.zeros(3, 1, dtype=torch.long)
    drafts = [Generation(codes, reason) for reason in ("cap", "floor", "eos", "eos")]
    assert best_of(drafts, [9.0, 8.0, -2.0, -1.0]) == 3
    assert best_of(drafts[:2], [9.0, 1.0]) == 1
    reading = Reading(torch.tensor([-1.0, -2.0, -3.0, -10.0]), torch.zeros(0, 1, 1))
    assert likelihood(reading, drafts[0]) == -2 and likelihood(reading, drafts[2]) == -4


@pytest.mark.parametrize("context", ["prompt", "previous"])
def test_word_times_of_parts_are_those_of_the_part_alone(codec, prompt: Prompt, context: str, monkeypatch) -> None:
    seen = []
    original = LongText.add

    def noted(self, speech):
        block, row = original(self, speech)
        seen.append((speech, row))
        return block, row

    monkeypatch.setattr(LongText, "add", noted)
    text, audio, rows = speak(with_aligner(build_speaker(codec, context=context)), TEXT, prompt)
    summary = text.summary(rows)
    assert " ".join(word["word"] for word in summary["words"]).split() == [
        word for part in text.parts for word in part.text.split()
    ]
    times = [time for word in summary["words"] for time in (word["start"], word["end"])]
    # Parts of one clause overlap a little.
    assert all(after >= before - 0.0101 for before, after in pairwise(times))
    assert times[0] >= 0 and times[-1] <= len(audio) / RATE
    assert all("words" not in row for row in summary["parts"])
    joined = 0
    for speech, row in seen:
        assert len(speech.words) == len(row["words"])
        for word, placed in zip(speech.words, row["words"], strict=True):
            assert row["start"] - 1e-3 <= placed["start"] <= placed["end"] <= row["end"] + 1e-3
            # All words of a part are moved by the same time, but for what the join cut off at its ends.
            offset = placed["start"] - word.start
            wanted = row["words"][-1]["end"] - speech.words[-1].end
            joined += int(abs(offset - wanted) < 2e-3)
    assert joined > len(summary["words"]) / 2


def test_subtitles_are_written_beside_each_text(codec, prompt: Prompt, tmp_path: Path) -> None:
    write_audio(tmp_path / "prompt.wav", prompt.audio, RATE)
    items = [ListItem(name, said, "a dog barks", tmp_path / "prompt.wav") for name, said in (("a", TEXT), ("b", "so."))]
    synthesize_list(with_aligner(build_speaker(codec)), items, tmp_path, False, False, subtitles="vtt")
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    for item, row in zip(items, rows, strict=True):
        lines = (tmp_path / f"{item.name}.vtt").read_text().split("\n")
        shown = " ".join(line for line in lines if line and "-->" not in line and line != "WEBVTT")
        assert shown.split() == " ".join(word["word"] for word in row["words"]).split()


@pytest.mark.parametrize(
    "settings", [{}, {"prepend_bos": True}, {"group_size": 2}, {"group_size": 3, "norm_first": False}]
)
def test_reading_gives_the_log_probabilities_of_the_steps(settings: dict) -> None:
    torch.manual_seed(0)
    model = VALLE(tiny_model(**settings)).eval()
    step = model.frames_per_step
    requests = [
        TokenizedRequest([1, 5, 6, 7, 2], 2, torch.randint(20, (6, 4)), 3),
        TokenizedRequest([1, 8, 9, 2], 2, torch.randint(20, (6 + 6 * (step > 1), 4)), 2),
    ]
    codes = [torch.randint(20, (7, 4)), torch.randint(20, (12, 4))]
    heads = [(1, 0), (0, 1)]
    together = model.read_codes(requests, codes, heads)
    for request, row, reading in zip(requests, codes, together, strict=True):
        [alone] = model.read_codes([request], [row], heads)
        torch.testing.assert_close(alone.log_probabilities, reading.log_probabilities)
        torch.testing.assert_close(alone.attention, reading.attention)
        whole = torch.cat([request.codes[:, 0], row[:, 0]])
        assert reading.attention.shape == (2, -(-len(whole) // step), len(request.ids))
        torch.testing.assert_close(reading.attention.sum(-1), torch.ones(reading.attention.shape[:2]))
        for frame in range(len(row) + 1):
            # What comes after the step does not change the prediction, and the step's own codes are not read.
            start = (len(request.codes) + frame) // step * step
            text = torch.tensor([request.ids])
            lens = torch.tensor([len(request.ids)])
            logits = model.ar(text, lens, whole[None, :start], torch.tensor([start]))
            wanted = logits[0, -step:].log_softmax(-1)[(len(request.codes) + frame) % step]
            target = row[frame, 0] if frame < len(row) else model.ar.eos_id
            torch.testing.assert_close(reading.log_probabilities[frame], wanted[target])


class Telling(DelayLM):
    """Reads codes: one of its heads follows the text."""

    reads_codes = True
    attention_heads = ((0, 0), (0, 1), (1, 0))

    def read_codes(self, requests, codes, heads):
        readings = []
        for request, row in zip(requests, codes, strict=True):
            num, size = len(request.codes) + len(row), len(request.ids)
            uniform = torch.full((num, size), 1 / size)
            places = torch.linspace(1, size - 2, num).round().long()
            follows = 0.9 * torch.eye(size)[places] + 0.1 * uniform
            attention = torch.stack([follows if head == (0, 1) else uniform for head in heads])
            readings.append(Reading(torch.zeros(len(row) + 1), attention))
        return readings


def delay(kind: type[DelayLM]) -> DelayLM:
    sizes = {"num_quantizers": 3, "text_token_num": 64, "audio_token_num": 20}
    return kind(DelaySettings(width=16, num_heads=2, num_layers=1, **sizes)).eval()


def test_heads_are_chosen_once_and_saved_for_their_checkpoint(codec, tmp_path: Path, monkeypatch) -> None:
    model, tokenizer = delay(Telling), build_speaker(codec).tokenizer
    utterances = [(tokenizer.ids("so_it_was"), torch.zeros(60, 3, dtype=torch.long)) for _ in range(3)]
    choice = choose_heads(model, measure_heads(model, utterances))
    assert choice.heads == ((0, 1),) and choice.best > 0.6
    measured: list[int] = []

    def noted(*given):
        measured.append(1)
        return utterances

    monkeypatch.setattr("synthesis.heads._validation_utterances", noted)
    path = tmp_path / "attention_heads.json"

    def source(name: str, is_reference: bool = False) -> SimpleNamespace:
        return SimpleNamespace(path=tmp_path / "checkpoint" / name, is_reference=is_reference)

    assert find_heads(model, codec, tokenizer, source("a", True), None) == choice and not path.exists()
    for name, num in (("a", 2), ("a", 2), ("b", 3), ("b", 3), ("a", 4)):
        found = find_heads(model, codec, tokenizer, source(name), None)
        assert found.heads == choice.heads and len(measured) == num
        assert json.loads(path.read_text())["checkpoint"] == name
    path.write_text("{")
    with pytest.raises(UserError, match=r"attention_heads\.json: damaged; remove it"):
        find_heads(model, codec, tokenizer, source("a"), None)


def test_without_validation_data_the_prompts_choose(codec, requests) -> None:
    synthesizer = build_speaker(codec)
    items = synthesizer.tokenize(requests, continual=False)
    aligner = TextAligner(synthesizer.tokenizer, synthesizer.codec.frame_rate_hz, lambda: None)
    assert aligner.heads(delay(Telling), items) == ((0, 1),)
    # A model that has learned nothing has no such heads, and no word times.
    synthesizer.aligner = TextAligner(synthesizer.tokenizer, synthesizer.codec.frame_rate_hz, lambda: None)
    assert synthesizer.aligner.heads(synthesizer.model, items) == ()
    assert all(speech.words == () for speech in synthesizer.synthesize(requests))


def test_all_prompts_of_a_batch_choose_together(codec, requests, monkeypatch) -> None:
    synthesizer = build_speaker(codec, max_tries=1)
    synthesizer.aligner = TextAligner(synthesizer.tokenizer, synthesizer.codec.frame_rate_hz, lambda: None)
    heads, sizes = TextAligner.heads, []

    def noted(self: TextAligner, model: VALLE, items: list[TokenizedRequest]):
        sizes.append(len(items))
        return heads(self, model, items)

    monkeypatch.setattr(TextAligner, "heads", noted)
    synthesizer.synthesize(requests)
    assert sizes == [len(requests)] and len(requests) > 1


def test_what_cannot_be_ranked_is_one_line(codec, requests) -> None:
    with pytest.raises(
        UserError, match=r"infer\.rank_by: DelayLM does not score codes, as coverage needs; set it to asr"
    ):
        check_candidates(delay(DelayLM), tiny_infer(num_candidates=2, rank_by="coverage"))
    for settings in ({"num_candidates": 1, "rank_by": "coverage"}, {"num_candidates": 2, "rank_by": "asr"}):
        check_candidates(delay(DelayLM), tiny_infer(**settings))
    check_candidates(delay(Telling), tiny_infer(num_candidates=2))
    for rank_by, reason in (("coverage", "coverage needs infer.word_times"), ("asr", "no speech recognizer")):
        [first, _] = build_speaker(codec, num_candidates=2, rank_by=rank_by).synthesize(requests)
        assert isinstance(first, UserError) and str(first).startswith("infer.rank_by: ") and reason in str(first)
    synthesizer = build_speaker(codec, num_candidates=2, rank_by="asr", asr="whisper", asr_model="./none")
    with pytest.raises(UserError, match=r"infer\.asr_model \./none: no such folder"):
        add_error_rate(synthesizer)


def test_a_model_without_scores_can_have_candidates_that_are_heard(codec) -> None:
    model = delay(DelayLM)
    synthesizer = build_speaker(codec, num_candidates=2, rank_by="asr", max_tries=1)
    synthesizer.model = model
    heard: list[int] = []
    synthesizer.decode = lambda codes: [row.float().flatten() / 20 for row in codes]

    def error_rate(audio, rate_hz, text):
        heard.append(len(audio))
        return 1 / len(heard)

    synthesizer.error_rate = error_rate
    [speech] = synthesizer.synthesize([Request("so", "a dog", torch.ones(1), torch.randint(0, 20, (8, 3)))])
    assert len(heard) == 2 and speech.candidate == 1 and len(speech.scores) == 2
