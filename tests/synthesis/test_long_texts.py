"""A text in parts: each part is as alone, in any batch; the whole has exact pauses, and says which parts failed."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from processors.frontends.graphemes import GraphemePhonemizer
from processors.text import TextTokenizer
from synthesis.limits import phones_of_a_part
from synthesis.long_texts import LongText, next_batch, part_seed, synthesize_parts
from synthesis.parts import Cut
from synthesis.results import synthesize_list
from synthesis.synthesizer import Request, Speech, Synthesizer
from synthesis.test_lists import ListItem
from tests.conftest import tiny_infer
from tests.support.long_texts import RATE, TEXT, build_speaker, speak
from utils.audio import write_audio
from utils.errors import UserError
from utils.prompts import Prompt

Build = Callable[..., Synthesizer]


@pytest.fixture
def build(codec) -> Build:
    return lambda **infer: build_speaker(codec, **infer)


@pytest.fixture
def prompt() -> Prompt:
    return Prompt(0.5 * torch.rand(RATE) - 0.25, "a dog barks", 1.0)


@pytest.fixture
def prompt_file(tmp_path: Path, prompt: Prompt) -> Path:
    write_audio(tmp_path / "prompt.wav", prompt.audio, RATE)
    return tmp_path / "prompt.wav"


def cut_off(synthesizer: Synthesizer, longest: int) -> Synthesizer:
    """Speech of more than `longest` phones is cut off after half a second, so that it fails."""
    limits = synthesizer.frame_limits
    synthesizer.frame_limits = lambda item: (13, 13) if item.num_target_phones > longest else limits(item)
    return synthesizer


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Request, Speech]]:
    """Every request that is synthesized from now on, with its speech."""
    seen: list[tuple[Request, Speech]] = []
    synthesize = Synthesizer.synthesize

    def noted(self: Synthesizer, requests: Sequence[Request], *given: Any, **others: Any) -> list[Speech | UserError]:
        results = synthesize(self, requests, *given, **others)
        seen.extend(zip(requests, results, strict=True))
        return results

    monkeypatch.setattr(Synthesizer, "synthesize", noted)
    return seen


@pytest.mark.parametrize("context", ["prompt", "previous"])
def test_a_part_is_as_alone_with_its_seed(build: Build, prompt: Prompt, context: str, monkeypatch) -> None:
    synthesizer = build(context=context)
    with monkeypatch.context() as patched:
        seen = spied(patched)
        text, audio, rows = speak(synthesizer, TEXT, prompt)
    assert len(seen) == len(text.parts) == len(rows) > 5
    for part, (request, speech) in zip(text.parts, seen, strict=True):
        # In this context the codes of the prompt are those of another part.
        is_own = context == "prompt" or request.prompt_text == prompt.text
        codes = None if is_own else request.prompt_codes
        alone = Request(part.text, request.prompt_text, prompt.audio, codes, part_seed(7, part.start))
        [wanted] = synthesizer.synthesize([alone])
        assert torch.equal(wanted.codes, speech.codes) and torch.equal(wanted.audio, speech.audio)
    assert part_seed(7, 0) == 7 and len({part_seed(7, part.start) for part in text.parts}) == len(text.parts)
    for size in (1, 3, 50):
        _, others, other_rows = speak(build(context=context, max_batch_size=size), TEXT, prompt)
        assert torch.equal(others, audio)
        timeless = [[{**row, "real_time_factor": 0} for row in of] for of in (rows, other_rows)]
        assert timeless[0] == timeless[1]


def test_a_text_of_one_part_is_as_without_parts(build: Build, prompt: Prompt, monkeypatch) -> None:
    synthesizer = build()
    said = "  two short words. so it was \n"
    [wanted] = synthesizer.synthesize([Request(said, prompt.text, prompt.audio)])
    text, audio, [row] = speak(synthesizer, said, prompt)
    assert len(text.parts) == 1 and torch.equal(audio, wanted.audio)
    assert (row["start"], row["end"]) == (0.0, round(len(audio) / RATE, 6)) and row["text"] == said.strip()
    summary = text.summary([row])
    assert summary["ended"] == wanted.stop_reason and summary.get("error") == wanted.failure


def test_a_part_continues_the_one_before_it_in_its_section(build: Build, prompt: Prompt, monkeypatch) -> None:
    seen = spied(monkeypatch)
    text, _, _ = speak(cut_off(build(context="previous"), 45), TEXT, prompt)
    continued = 0
    for index, (request, _) in enumerate(seen):
        last, speech = seen[index - 1]
        if index and speech.failure is None and speech.seconds >= 0.5 and text.parts[index - 1].cut != Cut.SECTION:
            assert request.prompt_codes is speech.codes and request.prompt_text == last.text
            continued += 1
        else:
            assert request.prompt_text == prompt.text
    # There were failed parts, too.
    assert 0 < continued < len(seen) - sum(part.cut == Cut.SECTION for part in text.parts)
    waiting = LongText(build(context="previous"), TEXT, prompt)
    assert waiting.take() is not None and waiting.take() is None
    waiting.give_back()
    assert waiting.take() is not None


def test_pauses_and_times_are_exact_in_the_file(build: Build, prompt_file: Path, tmp_path: Path) -> None:
    said = "[pause 0.1234s] so it was. [pause 0.5s] and [pause 1s] they went, home [pause 0.25s]"
    synthesize_list(build(), [ListItem("a", said, "a dog barks", prompt_file)], tmp_path, False, False)
    [row] = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    samples, rate_hz = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert [part["text"] for part in row["parts"]] == ["so it was.", "and", "they went, home"]
    starts, ends = ([round(part[key] * rate_hz) for part in row["parts"]] for key in ("start", "end"))
    silences = list(zip([0, *ends], [*starts, len(samples)], strict=True))
    assert [end - start for start, end in silences] == [round(s * rate_hz) for s in (0.1234, 0.5, 1, 0.25)]
    for start, end in silences:
        assert not samples[start:end].any()
    for start, end in zip(starts, ends, strict=True):
        assert samples[start:end].any()
    assert row["seconds"] == round(len(samples) / rate_hz, 3)


def test_a_part_that_fails_is_marked_and_the_text_is_a_failure(build: Build, prompt: Prompt) -> None:
    text, audio, rows = speak(cut_off(build(), 45), TEXT, prompt)
    failed = [number for number, part in enumerate(text.parts, start=1) if len(part.text) > 45]
    assert 0 < len(failed) < len(rows) and all(rows[number - 1]["ended"] == "cap" for number in failed)
    failed = [number for number, row in enumerate(rows, start=1) if row["ended"] != "eos"]
    assert [number for number, row in enumerate(rows, start=1) if "error" in row] == failed
    summary = text.summary(rows)
    assert summary["ended"] == rows[failed[0] - 1]["ended"] != "eos"
    assert summary["error"].startswith(f"{len(failed)} of {len(rows)} parts failed; part {failed[0]}, '")
    assert summary["seconds"] == round(len(audio) / RATE, 3)
    good = [row for row in rows if "error" not in row]
    assert text.summary(good)["ended"] == "eos" and "error" not in text.summary(good)


def test_long_and_short_lines_of_a_list_are_as_alone(build: Build, prompt_file: Path, tmp_path: Path) -> None:
    said = [TEXT, "so.", "go home. and then?", TEXT[:120], "?!", "a [pause] b"]
    items = [ListItem(str(number), one, "a dog barks", prompt_file) for number, one in enumerate(said)]
    assert synthesize_list(build(max_batch_size=4), items, tmp_path / "all", False, False) >= 2
    rows = [json.loads(line) for line in (tmp_path / "all" / "results.jsonl").read_text().splitlines()]
    assert "nothing that can be spoken" in rows[4]["error"] and "as in [pause 0.5s]" in rows[5]["error"]
    for item in items[:4]:
        synthesize_list(build(), [item], tmp_path / item.name, False, False)
        alone = (tmp_path / item.name / f"{item.name}.wav").read_bytes()
        assert (tmp_path / "all" / f"{item.name}.wav").read_bytes() == alone
    assert len(rows[0]["parts"]) > 5 and rows[0]["text"] == TEXT


def test_a_text_with_letters_that_cannot_be_read_is_refused_before_it_is_synthesized(
    build: Build, prompt: Prompt, monkeypatch
) -> None:
    class Latin(GraphemePhonemizer):
        def unreadable(self, text: str) -> list[str]:
            return [letter for letter in text if letter == "ж"]

    synthesizer = build()
    synthesizer.tokenizer = TextTokenizer(Latin, synthesizer.tokenizer._table, add_blank=False)
    with pytest.raises(UserError, match=r"the text has letters that cannot be read in its language: ж \(CYR"):
        LongText(synthesizer, f"{TEXT} ж", prompt)


def test_an_interrupted_batch_gives_its_parts_back(build: Build, prompt: Prompt) -> None:
    synthesizer = build()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    text = LongText(synthesizer, TEXT, prompt)
    with pytest.raises(KeyboardInterrupt):
        synthesize_parts(synthesizer, next_batch([text], 4), on_frames=interrupt)
    blocks = []
    while batch := next_batch([text], 4):
        blocks += [audio for _, audio, _ in synthesize_parts(synthesizer, batch)]
    assert torch.equal(torch.cat(blocks), speak(build(), TEXT, prompt)[1])


def test_parts_take_turns(build: Build, prompt: Prompt) -> None:
    synthesizer = build()
    texts = [LongText(synthesizer, said, prompt) for said in (TEXT, "so it was.", TEXT)]
    batch = next_batch(texts, 5)
    assert [texts.index(text) for text, _ in batch] == [0, 1, 2, 0, 2]
    assert [request.text for _, request in batch[3:]] == [texts[0].parts[1].text, texts[2].parts[1].text]


def test_prompt_and_part_are_no_longer_than_what_was_trained_on() -> None:
    limits = tiny_infer(max_part_seconds=8, max_total_seconds=10)
    assert phones_of_a_part(2, 20, limits) == (pytest.approx(80), 0.1)
    assert phones_of_a_part(4, 40, limits) == (pytest.approx(60), 0.1)
    assert phones_of_a_part(2, 20, limits.model_copy(update={"context": "previous"}))[0] == pytest.approx(50)
    # A slow prompt leaves room for fewer phones; one that is too long, for some.
    assert phones_of_a_part(4, 20, limits) == (pytest.approx(30), 0.2)
    assert phones_of_a_part(15, 150, limits)[0] == pytest.approx(25)
    # A wrong transcript does not make the rate absurd.
    assert phones_of_a_part(4, 1, limits)[1] == 0.4 and phones_of_a_part(1, 1000, limits)[1] == 0.02
    assert phones_of_a_part(4, 40, tiny_infer())[0] == np.inf
