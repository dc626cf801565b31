"""Who waits together is spoken together, and gets what it would alone."""

import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from config.schema import SamplingSettings
from synthesis.synthesizer import Request, Synthesizer
from tests.web.conftest import Trained
from utils.errors import UserError
from utils.prompts import prepare_prompt
from web.synthesis_queue import MAX_LOADED, QueuedRequest, SynthesisQueue

DRAWN = SamplingSettings(top_k=0, top_p=0.9, temperature=0.8, seed=3, repetition_window=0, repetition_threshold=0.1)
TEXTS = ("Early birds find apples.", "Tall trees near quiet rivers often find birds.", "Small.")
WAIT_SECONDS = 300


class Recorder:
    """Builds the same voice each time; notes what is built, and which texts are spoken together."""

    def __init__(self, voice: Synthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.voice = voice
        self.built: list[Path] = []
        self.groups: list[list[str]] = []
        self.failure: Exception | None = None
        self._speak = Synthesizer.synthesize
        monkeypatch.setattr(Synthesizer, "synthesize", lambda *given, **others: self._noted(*given, **others))

    def build(self, checkpoint) -> Synthesizer:
        self.built.append(checkpoint.path)
        return self.voice

    def _noted(self, synthesizer, requests, **others):
        self.groups.append([request.text for request in requests])
        if self.failure is not None:
            raise self.failure
        return self._speak(synthesizer, requests, **others)


@pytest.fixture
def recorder(voice: Synthesizer, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(voice, monkeypatch)


@pytest.fixture
def speaker(recorder: Recorder) -> Iterator[SynthesisQueue]:
    """Not started: what is submitted waits together until it is."""
    speaker = SynthesisQueue(recorder.build)
    yield speaker
    speaker.close()


def job(trained: Trained, text: str, sampling: SamplingSettings = DRAWN, index: int = 0, **changes) -> QueuedRequest:
    audio, prompt_text = trained.prompt(index)
    values = {"text": text, "prompt_text": prompt_text, "prompt_audio": audio, **changes}
    return QueuedRequest(values.pop("checkpoint", trained.checkpoint), sampling, **values)


def alone(voice: Synthesizer, one: QueuedRequest) -> torch.Tensor:
    prompt = prepare_prompt(one.prompt_audio, one.prompt_text, voice.codec.sample_rate_hz)
    speaking = voice.with_settings(**one.sampling.model_dump())
    [speech] = speaking._synthesize_batch([Request(one.text, prompt.text, prompt.audio)], False, None)
    return speech.audio


def test_those_that_wait_are_spoken_together_as_each_alone(trained, voice, recorder, speaker) -> None:
    other = DRAWN.model_copy(update={"seed": 4})
    jobs = [job(trained, text, index=index) for index, text in enumerate(TEXTS)]
    jobs.insert(1, job(trained, TEXTS[0], other))
    for one in jobs:
        speaker.submit(one)
    speaker.start()
    spoken = [one.done.result(WAIT_SECONDS) for one in jobs]
    assert recorder.groups == [list(TEXTS), [TEXTS[0]]]
    assert recorder.built == [trained.checkpoint.path]
    for one, result in zip(jobs, spoken, strict=True):
        assert torch.equal(result.audio, alone(voice, one))
        assert one.doing == "speaking" and one.num_seconds > 0
    assert not torch.equal(spoken[0].audio, spoken[1].audio)


def test_no_more_are_taken_together_than_the_settings_allow(trained, voice, recorder, speaker) -> None:
    recorder.voice = voice.with_settings(max_batch_size=2)
    jobs = [job(trained, text) for text in TEXTS]
    for one in jobs:
        speaker.submit(one)
    speaker.start()
    for one in jobs:
        one.done.result(WAIT_SECONDS)
    assert recorder.groups == [list(TEXTS[:2]), [TEXTS[2]]]


def test_one_that_cannot_be_spoken_takes_no_other_with_it(trained, voice, recorder, speaker, tmp_path) -> None:
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(24000), 24000)
    good = [job(trained, TEXTS[0]), job(trained, TEXTS[1], index=1)]
    bad = [job(trained, "?!"), job(trained, TEXTS[2], prompt_audio=silent), job(trained, TEXTS[0], prompt_text="...")]
    for one in (bad[0], good[0], bad[1], good[1], bad[2]):
        speaker.submit(one)
    speaker.start()
    for one, words in zip(bad, ("'\\?!' has nothing", "the prompt is silent", "prompt's text '...' has"), strict=True):
        with pytest.raises(UserError, match=words):
            one.done.result(WAIT_SECONDS)
    for one in good:
        assert torch.equal(one.done.result(WAIT_SECONDS).audio, alone(voice, one))
    assert recorder.groups == [["?!", TEXTS[0], TEXTS[1], TEXTS[0]]]


def test_after_a_failure_the_next_are_spoken(trained, recorder, speaker) -> None:
    recorder.failure = RuntimeError("of another kind")
    first = job(trained, TEXTS[0])
    speaker.submit(first)
    speaker.start()
    with pytest.raises(RuntimeError, match="of another kind"):
        first.done.result(WAIT_SECONDS)
    recorder.failure = None
    second = job(trained, TEXTS[0])
    speaker.submit(second)
    assert second.done.result(WAIT_SECONDS).seconds > 0


def test_a_voice_that_cannot_be_loaded_is_told_to_all_who_asked_for_it(trained) -> None:
    def build(checkpoint) -> Synthesizer:
        raise UserError("damaged")

    speaker = SynthesisQueue(build)
    jobs = [job(trained, text) for text in TEXTS]
    for one in jobs:
        speaker.submit(one)
    speaker.start()
    for one in jobs:
        with pytest.raises(UserError, match="damaged"):
            one.done.result(WAIT_SECONDS)
    speaker.close()


def test_a_newer_checkpoint_takes_the_place_of_the_older(trained, recorder, speaker) -> None:
    newer = replace(trained.checkpoint, path=trained.checkpoint.path.with_name("newer"))
    for checkpoint in (trained.checkpoint, trained.checkpoint, newer, newer):
        assert speaker.load(checkpoint) is recorder.voice
    assert recorder.built == [trained.checkpoint.path, newer.path]
    assert len(speaker._loaded) == 1
    speaker.start()


def test_the_last_experiments_chosen_stay_and_others_leave_memory(trained, speaker) -> None:
    built, alive = [], weakref.WeakValueDictionary()

    class Voice:
        pass

    def build(checkpoint):
        voice = Voice()
        built.append(checkpoint.path.parent.parent.name)
        # Those that were let go of are gone before the next one takes their room.
        assert len(alive) < MAX_LOADED
        alive[len(built)] = voice
        return voice

    speaker._build = build
    checkpoints = {
        name: replace(trained.checkpoint, path=Path("/log") / name / "checkpoint" / "one") for name in ("a", "b", "c")
    }
    for name in ("a", "b", "a", "c", "a", "c", "b"):
        speaker.load(checkpoints[name])
    assert built == ["a", "b", "c", "b"] and MAX_LOADED == 2
    speaker.start()


def test_an_older_checkpoint_is_gone_before_the_newer_takes_its_room(trained, voice, recorder, speaker) -> None:
    alive = weakref.WeakSet()

    def build(checkpoint) -> Synthesizer:
        assert not alive
        other = voice.with_settings()
        alive.add(other)
        return other

    speaker._build = build
    speaker.start()
    for name in ("older", "newer", "newest"):
        checkpoint = replace(trained.checkpoint, path=trained.checkpoint.path.with_name(name))
        one = job(trained, TEXTS[2], checkpoint=checkpoint)
        speaker.submit(one)
        assert one.done.result(WAIT_SECONDS).seconds > 0


def test_the_server_closes_without_an_end_of_what_it_speaks(trained, voice, recorder) -> None:
    recorder.voice = voice.with_settings()
    recorder.voice.frame_limits = lambda _: (10**5, 2 * 10**5)
    speaker = SynthesisQueue(recorder.build)
    jobs = [job(trained, text) for text in TEXTS[:2]]
    for one in jobs:
        speaker.submit(one)
    speaker.start()
    while not jobs[0].num_seconds:
        time.sleep(0.01)
    speaker.close()
    for one in jobs:
        with pytest.raises(UserError, match="closing"):
            one.done.result(0)


def test_those_that_wait_are_told_when_the_server_closes(trained, recorder) -> None:
    speaker = SynthesisQueue(recorder.build)
    waiting = job(trained, TEXTS[0])
    speaker.submit(waiting)
    speaker._is_closed = True
    speaker.start()
    with pytest.raises(UserError, match="closing"):
        waiting.done.result(WAIT_SECONDS)
