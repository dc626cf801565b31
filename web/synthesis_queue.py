"""One thread that speaks for all who wait: requests that fit together are decoded together."""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from config.schema import SamplingSettings
from synthesis.synthesizer import Request, Speech, Synthesizer
from utils.checkpoint import Checkpoint, experiment_of
from utils.device import release_memory
from utils.errors import UserError
from web.prompts import read_prompt

_CLOSING = "the server is closing"
# Experiments in memory at a time.
MAX_LOADED = 2


@dataclass(eq=False)
class QueuedRequest:
    """One text to say, and how far it is: `num_seconds` of it are decoded, of a length that is guessed."""

    checkpoint: Checkpoint
    sampling: SamplingSettings
    text: str
    prompt_text: str
    prompt_audio: Path
    doing: Literal["waiting", "loading the model", "speaking"] = "waiting"
    num_seconds: float = 0.0
    guessed_seconds: float = math.inf
    done: "Future[Speech]" = field(default_factory=Future)

    def goes_with(self, other: "QueuedRequest") -> bool:
        """Whether the two can be decoded together."""
        return (self.checkpoint, self.sampling) == (other.checkpoint, other.sampling)


class SynthesisQueue:
    """Loads an experiment when it is first chosen, and keeps the last `MAX_LOADED` that were."""

    def __init__(self, build: Callable[[Checkpoint], Synthesizer]) -> None:
        self._build = build
        self._loaded: dict[Path, tuple[Checkpoint, Synthesizer]] = {}
        self._waiting: list[QueuedRequest] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="synthesis queue", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: QueuedRequest) -> None:
        """Put a request behind those that wait; `request.done` gets its speech, or UserError."""
        with self._changed:
            self._waiting.append(request)
            self._changed.notify()

    def close(self) -> None:
        """End the thread, which stops speaking at the next frame; those that wait are told."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def load(self, checkpoint: Checkpoint) -> Synthesizer:
        """The experiment's synthesizer, built unless it is one of those in memory.

        Raises UserError when the experiment cannot speak.
        """
        folder = experiment_of(checkpoint)
        found = self._loaded.pop(folder, None)
        if found is None or found[0] != checkpoint:
            # What has to go goes before the new one comes: there may be no room for both.
            found = None
            while len(self._loaded) >= MAX_LOADED:
                # The first is the one that was chosen longest ago.
                self._loaded.pop(next(iter(self._loaded)))
            release_memory()
            found = checkpoint, self._build(checkpoint)
        self._loaded[folder] = found
        return found[1]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    _fail(self._waiting, UserError(_CLOSING))
                    return
                first = self._waiting[0]
            self._speak_next(first)

    def _speak_next(self, first: QueuedRequest) -> None:
        """Speak the first request and those that go with it. Every error is reported to the requests that it concerns.

        No local name of `_run` holds the voice, so that one that leaves memory does so before the next is loaded.
        """
        first.doing = "loading the model"
        try:
            voice = self.load(first.checkpoint)
        except Exception as error:
            _fail(self._take(first), error)
            return
        group = self._take(first, voice.settings.max_batch_size)
        try:
            self._speak_group(voice, group)
        except Exception as error:
            _fail(group, error)

    def _take(self, first: QueuedRequest, most: int | None = None) -> list[QueuedRequest]:
        """The first request and those that wait and go with it, at most `most` together, out of the queue."""
        with self._changed:
            group = [request for request in self._waiting if request.goes_with(first)][:most]
            self._waiting = [request for request in self._waiting if request not in group]
        return group

    def _speak_group(self, voice: Synthesizer, group: Sequence[QueuedRequest]) -> None:
        """Speak jobs of one voice and one sampling together; one that cannot be spoken does not take others with it."""
        ready: list[tuple[QueuedRequest, Request]] = []
        for request in group:
            request.doing = "speaking"
            try:
                prompt = read_prompt(request.prompt_audio, request.prompt_text, voice.codec.sample_rate_hz)
                # As fast as the prompt was said.
                request.guessed_seconds = prompt.seconds * len(request.text) / len(prompt.text)
                ready.append((request, Request(request.text, prompt.text, prompt.audio)))
            except Exception as error:
                request.done.set_exception(error)

        def hear(num_frames: int) -> None:
            if self._is_closed:
                raise UserError(_CLOSING)
            for request, _ in ready:
                request.num_seconds = num_frames / voice.codec.frame_rate_hz

        sampled = voice.with_settings(**group[0].sampling.model_dump())
        speeches = sampled.synthesize([request for _, request in ready], on_frames=hear)
        for (request, _), speech in zip(ready, speeches, strict=True):
            if isinstance(speech, UserError):
                request.done.set_exception(speech)
            elif speech.failure is not None:
                request.done.set_exception(UserError(speech.failure))
            else:
                request.done.set_result(speech)


def _fail(group: Sequence[QueuedRequest], error: Exception) -> None:
    for request in group:
        if not request.done.done():
            request.done.set_exception(error)
