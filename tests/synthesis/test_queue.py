"""Waiting requests are synthesized in batches, and each gets the same speech as alone."""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from config.schema import SpeechSettings
from synthesis.long_texts import LongText, ResultRow
from synthesis.queue import MAX_LOADED, QueuedRequest, SynthesisQueue
from synthesis.synthesizer import Request, Synthesizer
from synthesis.voices import load_prompt
from tests.support.long_texts import speak
from tests.support.pair import Trained
from utils.errors import MemoryExceededError, UserError
from utils.prompts import prepare_prompt

DRAWN = SpeechSettings(
    top_k=0,
    top_p=0.9,
    temperature=0.8,
    seed=3,
    repetition_window=0,
    repetition_threshold=0.1,
    speed=1.0,
    loudness_lufs=None,
)
TEXTS = ("Early birds find apples.", "Tall trees near quiet rivers often find birds.", "Small.")
WAIT_SECONDS = 300
PARAGRAPHS = tuple(f"{text} {number}" for number in ("One.", "Two.") for text in TEXTS)
LONG = "\n\n".join(PARAGRAPHS)


class Recorder:
    """Builds the same synthesizer each time; records the checkpoints and the texts of each batch."""

    def __init__(self, synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synthesizer = synthesizer
        self.built: list[Path] = []
        self.groups: list[list[str]] = []
        self.failure: Exception | None = None
        self.before: dict[int, Callable[[], None]] = {}
        self._speak = Synthesizer.synthesize
        monkeypatch.setattr(Synthesizer, "synthesize", lambda *given, **others: self._noted(*given, **others))

    def build(self, checkpoint) -> Synthesizer:
        self.built.append(checkpoint.path)
        return self.synthesizer

    def _noted(self, synthesizer, requests, **others):
        """`before` may have something to do as a batch begins."""
        self.before.pop(len(self.groups), lambda: None)()
        self.groups.append([request.text for request in requests])
        if self.failure is not None:
            raise self.failure
        return self._speak(synthesizer, requests, **others)


@pytest.fixture
def recorder(synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    # A collection of all garbage of the test process takes a second, and models are freed without it.
    monkeypatch.setattr("synthesis.queue.release_memory", lambda: None)
    return Recorder(synthesizer, monkeypatch)


@pytest.fixture
def queue(recorder: Recorder) -> Iterator[SynthesisQueue]:
    """Not started, so that a test can submit several requests before it is."""
    queue = SynthesisQueue(recorder.build)
    yield queue
    queue.close()


def queued(trained: Trained, text: str, sampling: SpeechSettings = DRAWN, index: int = 0, **changes) -> QueuedRequest:
    audio, prompt_text = trained.prompt(index)
    source = {"audio": audio, "prompt_text": prompt_text, **changes}
    checkpoint, on_block = source.pop("checkpoint", trained.checkpoint), source.pop("on_block", None)
    load = partial(load_prompt, source=source["audio"], text=source["prompt_text"])
    return QueuedRequest(checkpoint, sampling, text, load, on_block)


def alone(synthesizer: Synthesizer, request: QueuedRequest) -> torch.Tensor:
    prompt = request.load_prompt(synthesizer)
    speaking = synthesizer.with_settings(**request.settings.model_dump())
    [speech] = speaking._synthesize_batch([Request(request.text, prompt.text, prompt.audio)], False, None)
    return LongText(speaking, request.text, prompt).add(speech)[0]


def test_waiting_requests_form_a_batch_and_equal_each_alone(trained, synthesizer, recorder, queue) -> None:
    other = DRAWN.model_copy(update={"seed": 4})
    requests = [queued(trained, text, index=index) for index, text in enumerate(TEXTS)]
    requests.insert(1, queued(trained, TEXTS[0], other))
    requests.insert(2, queued(trained, TEXTS[0], DRAWN.model_copy(update={"speed": 2.0, "loudness_lufs": -20.0})))
    requests.append(queued(trained, TEXTS[0], DRAWN.model_copy(update={"top_k": 3})))
    for request in requests:
        queue.submit(request)
    queue.start()
    speeches = [request.done.result(WAIT_SECONDS) for request in requests]
    # Each has its own seed, speed and loudness; other sampling is a batch of its own.
    assert recorder.groups == [[TEXTS[0], TEXTS[0], *TEXTS], [TEXTS[0]]]
    assert recorder.built == [trained.checkpoint.path]
    for request, result in zip(requests, speeches, strict=True):
        assert torch.equal(result.audio, alone(synthesizer, request))
        assert request.state == "speaking" and request.num_seconds > 0
    assert not torch.equal(speeches[0].audio, speeches[1].audio)


def test_a_batch_is_no_larger_than_the_settings_allow(trained, synthesizer, recorder, queue) -> None:
    recorder.synthesizer = synthesizer.with_settings(max_batch_size=2)
    requests = [queued(trained, text) for text in TEXTS]
    for request in requests:
        queue.submit(request)
    queue.start()
    for request in requests:
        request.done.result(WAIT_SECONDS)
    assert recorder.groups == [list(TEXTS[:2]), [TEXTS[2]]]


def test_a_request_that_fails_does_not_affect_the_others(trained, synthesizer, recorder, queue, tmp_path) -> None:
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(24000), 24000)
    good = [queued(trained, TEXTS[0]), queued(trained, TEXTS[1], index=1)]
    bad = [
        queued(trained, "?!"),
        queued(trained, TEXTS[2], audio=silent),
        queued(trained, TEXTS[0], prompt_text="..."),
    ]
    for request in (bad[0], good[0], bad[1], good[1], bad[2]):
        queue.submit(request)
    queue.start()
    for request, words in zip(
        bad, ("'\\?!' has nothing", "the prompt is silent", "prompt's text '...' has"), strict=True
    ):
        with pytest.raises(UserError, match=words):
            request.done.result(WAIT_SECONDS)
    for request in good:
        assert torch.equal(request.done.result(WAIT_SECONDS).audio, alone(synthesizer, request))
    assert recorder.groups == [[TEXTS[0], TEXTS[1], TEXTS[0]]]


def test_a_long_text_is_that_of_stage_3_and_pauses_for_a_short_one(trained, synthesizer, recorder, queue) -> None:
    recorder.synthesizer = synthesizer.with_settings(max_batch_size=2)
    long, short, later = queued(trained, LONG), queued(trained, TEXTS[1], index=1), queued(trained, TEXTS[2])
    # The short texts come while the long one is spoken.
    recorder.before = {1: lambda: queue.submit(short), 3: lambda: queue.submit(later)}
    queue.submit(long)
    queue.start()
    short.done.result(WAIT_SECONDS)
    assert not long.done.done() and len(long.parts) == 2
    later.done.result(WAIT_SECONDS)
    speech = long.done.result(WAIT_SECONDS)
    first, second, third = (list(PARAGRAPHS[index : index + 2]) for index in (0, 2, 4))
    assert recorder.groups == [first, second, [TEXTS[1]], third, [TEXTS[2]]]
    text, audio, _ = speak_parts(synthesizer.with_settings(**DRAWN.model_dump()), LONG, trained)
    assert torch.equal(speech.audio, audio) and len(text.parts) == len(speech.summary["parts"]) == 6
    assert [part["text"] for part in speech.summary["parts"]] == list(PARAGRAPHS)
    for request in (short, later):
        assert torch.equal(request.done.result().audio, alone(synthesizer, request))


def test_a_long_text_ends_a_batch_once_and_takes_turns(trained, synthesizer, recorder, queue) -> None:
    recorder.synthesizer = synthesizer.with_settings(max_batch_size=2)
    long, other, third = (queued(trained, LONG, index=index) for index in (0, 1, 0))
    recorder.before = {1: lambda: queue.submit(other), 2: lambda: queue.submit(third)}
    queue.submit(long)
    queue.start()
    audio = [request.done.result(WAIT_SECONDS).audio for request in (long, other, third)]
    one, two, three, four, *_ = PARAGRAPHS
    # The second text ends the second batch. The third text does not end the next one, which has parts of both.
    assert recorder.groups[:4] == [[one, two], [three, four], [one, three], [one, two]]
    assert torch.equal(audio[0], audio[2]) and not torch.equal(audio[0], audio[1])


def test_short_texts_take_no_more_time_than_the_long_one_that_they_pause(
    trained, synthesizer, recorder, queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that counts frames.
    ticks = count()
    monkeypatch.setattr("synthesis.queue.time.monotonic", lambda: next(ticks))
    recorder.synthesizer = synthesizer.with_settings(max_batch_size=1, max_tries=1)
    recorder.synthesizer.frame_limits = lambda item: (200, 200) if item.num_target_phones > 8 else (40, 40)
    # The second one comes with the first and has other sampling, the third one comes in their pause.
    long, first, second, third = (queued(trained, text) for text in (LONG, *[TEXTS[2]] * 3))
    second.settings = DRAWN.model_copy(update={"top_k": 3})
    began: list[float] = []
    recorder.before = {
        0: lambda: (queue.submit(first), queue.submit(second)),
        1: lambda: (began.append(long.num_seconds), queue.submit(third)),
        2: lambda: began.append(long.num_seconds),
        3: lambda: began.append(long.num_seconds),
    }
    queue.submit(long)
    queue.start()
    for request in (first, second, third, long):
        request.done.result(WAIT_SECONDS)
    seconds = first.done.result().seconds
    assert began[0] < 0.1 * seconds
    for before, after in pairwise(began):
        assert seconds <= after - before < 1.5 * seconds


def test_a_batch_that_is_completed_or_decoded_is_not_ended(
    trained, synthesizer, recorder, queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.synthesizer = synthesizer.with_settings(max_batch_size=2, max_tries=1)
    long, other, decode = queued(trained, LONG), queued(trained, LONG, index=1), Synthesizer.decode_generations

    def submitting(self: Synthesizer, *given) -> list[torch.Tensor]:
        if other not in queue._waiting and not other.done.done():
            queue.submit(other)
        return decode(self, *given)

    monkeypatch.setattr(Synthesizer, "decode_generations", submitting)
    queue.submit(long)
    queue.start()
    for request in (long, other):
        request.done.result(WAIT_SECONDS)
    one, two, three, *_ = PARAGRAPHS
    assert recorder.groups[:2] == [[one, two], [one, three]] and not long.was_interrupted


def test_a_short_text_without_memory_beside_a_long_one_has_its_own_turn(
    trained, synthesizer, recorder, queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.synthesizer = synthesizer.with_settings(max_batch_size=2)
    long, short, speak = queued(trained, LONG), queued(trained, TEXTS[1]), Synthesizer.synthesize
    # Of each batch, how many others run.
    running: list[None] = []
    beside: list[int] = []

    def without_memory(self: Synthesizer, requests: list[Request], **others):
        beside.append(len(running))
        if running:
            return [MemoryExceededError("out of memory: lower infer.max_batch_size")]
        running.append(None)
        try:
            return speak(self, requests, **others)
        finally:
            running.pop()

    monkeypatch.setattr(Synthesizer, "synthesize", without_memory)
    recorder.before = {0: lambda: queue.submit(short)}
    queue.submit(long)
    queue.start()
    # The phonemizer must not be used in two threads at once.
    speeches = [request.done.result(WAIT_SECONDS) for request in (long, short)]
    assert len(speeches[0].parts) == 6 and beside[:3] == [0, 1, 0]
    assert torch.equal(speeches[1].audio, alone(synthesizer, short))


def test_a_text_that_is_cancelled_in_a_pause_ends_no_batch(trained, synthesizer, recorder, queue) -> None:
    recorder.synthesizer = synthesizer.with_settings(max_batch_size=2)
    long, short, other = queued(trained, LONG), queued(trained, TEXTS[1]), queued(trained, LONG, index=1)
    recorder.before = {
        0: lambda: (queue.submit(short), queue.submit(other)),
        1: lambda: queue.cancel(other),
    }
    queue.submit(long)
    queue.start()
    assert short.done.result(WAIT_SECONDS).has_speech and len(long.done.result(WAIT_SECONDS).parts) == 6
    assert recorder.groups == [list(PARAGRAPHS[:2]), [TEXTS[1]], list(PARAGRAPHS[2:4]), list(PARAGRAPHS[4:])]


def test_a_failure_in_a_pause_and_a_queue_that_is_closed_then_end_as_they_should(
    trained, synthesizer, recorder, queue, tmp_path: Path
) -> None:
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(24000), 24000)
    long, bad, short = queued(trained, LONG), queued(trained, TEXTS[1], audio=silent), queued(trained, TEXTS[1])
    closing = threading.Thread(target=queue.close)
    recorder.before = {0: lambda: (queue.submit(bad), queue.submit(short)), 1: closing.start}
    queue.submit(long)
    queue.start()
    with pytest.raises(UserError, match="the prompt is silent"):
        bad.done.result(WAIT_SECONDS)
    with pytest.raises(UserError, match="the server is closing"):
        long.done.result(WAIT_SECONDS)
    closing.join()
    assert short.done.done() and len(queue) == 0


def speak_parts(
    synthesizer: Synthesizer, said: str, trained: Trained
) -> tuple[LongText, torch.Tensor, list[ResultRow]]:
    audio, prompt_text = trained.prompt()
    return speak(synthesizer, said, prepare_prompt(audio, prompt_text, synthesizer.codec.sample_rate_hz))


def test_long_texts_take_turns(trained, synthesizer, recorder, queue) -> None:
    recorder.synthesizer = synthesizer.with_settings(max_batch_size=4)
    requests = [queued(trained, LONG), queued(trained, "\n\n".join(PARAGRAPHS[:3]), index=1)]
    for request in requests:
        queue.submit(request)
    queue.start()
    assert [len(request.done.result(WAIT_SECONDS).summary["parts"]) for request in requests] == [6, 3]
    one, two, three, four, five, six = PARAGRAPHS
    assert recorder.groups == [[one, one, two, two], [three, three, four, five], [six]]


def test_a_streamed_text_begins_with_one_part_and_is_the_same_audio(trained, recorder, queue) -> None:
    blocks: list[torch.Tensor] = []
    whole, streamed = queued(trained, LONG), queued(trained, LONG, on_block=blocks.append)
    queue.submit(streamed)
    queue.start()
    speech = streamed.done.result(WAIT_SECONDS)
    # Each turn has as many parts as were done before it.
    assert [len(group) for group in recorder.groups] == [1, 1, 2, 2] and len(blocks) == 6
    queue.submit(whole)
    assert torch.equal(torch.cat(blocks), whole.done.result(WAIT_SECONDS).audio)
    assert torch.equal(torch.cat(blocks), speech.audio) and len(queue) == 0


def test_a_request_that_is_cancelled_frees_the_queue(trained, synthesizer, recorder, queue) -> None:
    recorder.synthesizer = synthesizer.with_settings(max_batch_size=2)
    long, waiting, short = queued(trained, LONG), queued(trained, LONG, index=1), queued(trained, TEXTS[1])
    # The other text of the batch is still wanted.
    recorder.before = {1: lambda: queue.cancel(long), 3: lambda: queue.cancel(waiting)}
    for request in (long, waiting):
        queue.submit(request)
    queue.start()
    for request in (long, waiting):
        with pytest.raises(UserError, match="the request was cancelled"):
            request.done.result(WAIT_SECONDS)
    queue.submit(short)
    assert torch.equal(short.done.result(WAIT_SECONDS).audio, alone(synthesizer, short))
    one, two, three, four, five, six = PARAGRAPHS
    assert recorder.groups == [[one, one], [two, two], [three, four], [five, six], [TEXTS[1]]]
    assert queue._waiting == []
    # One that is done stays so.
    queue.cancel(short)
    assert short.done.result().summary["seconds"] > 0


def test_a_long_text_with_failed_parts_is_spoken_and_marked(trained, synthesizer, recorder, queue) -> None:
    recorder.synthesizer = synthesizer.with_settings(max_tries=1)
    longest = max(len(text) for text in PARAGRAPHS)
    limits = synthesizer.frame_limits
    # The longest parts are cut off.
    recorder.synthesizer.frame_limits = lambda item: (5, 5) if item.num_target_phones > longest / 2 else limits(item)
    request, failing = queued(trained, LONG), queued(trained, TEXTS[1])
    for one in (request, failing):
        queue.submit(one)
    queue.start()
    summary = request.done.result(WAIT_SECONDS).summary
    failed = [part["text"] for part in summary["parts"] if "error" in part]
    assert {PARAGRAPHS[1], PARAGRAPHS[4]} <= set(failed) and summary["ended"] != "eos"
    assert summary["error"].startswith(f"{len(failed)} of 6 parts failed; part ")
    speech = failing.done.result(WAIT_SECONDS)
    assert not speech.has_speech and speech.ended == "cap" and "the speech did not end by itself" in str(speech.error)
    assert request.done.result().has_speech and len(speech.audio) == 5 * 960


def test_requests_after_a_failure_are_synthesized(trained, recorder, queue) -> None:
    recorder.failure = RuntimeError("of another kind")
    first = queued(trained, TEXTS[0])
    queue.submit(first)
    queue.start()
    with pytest.raises(RuntimeError, match="of another kind"):
        first.done.result(WAIT_SECONDS)
    recorder.failure = None
    second = queued(trained, TEXTS[0])
    queue.submit(second)
    assert second.done.result(WAIT_SECONDS).summary["seconds"] > 0


def test_all_requests_for_an_experiment_that_cannot_be_loaded_fail(trained) -> None:
    def build(checkpoint) -> Synthesizer:
        raise UserError("damaged")

    queue = SynthesisQueue(build)
    requests = [queued(trained, text) for text in TEXTS]
    for request in requests:
        queue.submit(request)
    queue.start()
    for request in requests:
        with pytest.raises(UserError, match="damaged"):
            request.done.result(WAIT_SECONDS)
    queue.close()


def test_a_newer_checkpoint_replaces_the_older(trained, recorder, queue) -> None:
    newer = replace(trained.checkpoint, path=trained.checkpoint.path.with_name("newer"))
    for checkpoint in (trained.checkpoint, trained.checkpoint, newer, newer):
        assert queue.load(checkpoint) is recorder.synthesizer
    assert recorder.built == [trained.checkpoint.path, newer.path]
    assert len(queue._loaded) == 1
    queue.start()


def test_the_experiments_last_used_stay_in_memory(trained, queue) -> None:
    built, alive = [], weakref.WeakValueDictionary()

    class LoadedUtterance:
        pass

    def build(checkpoint):
        synthesizer = LoadedUtterance()
        built.append(checkpoint.path.parent.parent.name)
        # Old experiments are freed before the next one is loaded.
        assert len(alive) < MAX_LOADED
        alive[len(built)] = synthesizer
        return synthesizer

    queue._build = build
    checkpoints = {
        name: replace(trained.checkpoint, path=Path("/log") / name / "checkpoint" / "newest")
        for name in ("a", "b", "c")
    }
    for name in ("a", "b", "a", "c", "a", "c", "b"):
        queue.load(checkpoints[name])
    assert built == ["a", "b", "c", "b"] and MAX_LOADED == 2
    queue.start()


def test_an_older_checkpoint_is_freed_before_the_newer_is_loaded(trained, synthesizer, recorder, queue) -> None:
    alive = weakref.WeakSet()

    def build(checkpoint) -> Synthesizer:
        assert not alive
        other = synthesizer.with_settings()
        alive.add(other)
        return other

    queue._build = build
    queue.start()
    for name in ("older", "newer", "newest"):
        checkpoint = replace(trained.checkpoint, path=trained.checkpoint.path.with_name(name))
        request = queued(trained, TEXTS[2], checkpoint=checkpoint)
        queue.submit(request)
        assert request.done.result(WAIT_SECONDS).summary["seconds"] > 0


def test_closing_interrupts_a_running_batch(trained, synthesizer, recorder) -> None:
    recorder.synthesizer = synthesizer.with_settings()
    recorder.synthesizer.frame_limits = lambda _: (10**5, 2 * 10**5)
    queue = SynthesisQueue(recorder.build)
    requests = [queued(trained, text) for text in TEXTS[:2]]
    for request in requests:
        queue.submit(request)
    queue.start()
    while not requests[0].num_seconds:
        time.sleep(0.01)
    queue.close()
    for request in requests:
        with pytest.raises(UserError, match="closing"):
            request.done.result(0)


def test_closing_fails_the_waiting_requests(trained, recorder) -> None:
    queue = SynthesisQueue(recorder.build)
    waiting = queued(trained, TEXTS[0])
    queue.submit(waiting)
    queue._is_closed = True
    queue.start()
    with pytest.raises(UserError, match="closing"):
        waiting.done.result(WAIT_SECONDS)
    later = queued(trained, TEXTS[0])
    queue.submit(later)
    with pytest.raises(UserError, match="closing"):
        later.done.result(0)
