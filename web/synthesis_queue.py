"""One thread that synthesizes for all users. Waiting requests for the same model and sampling form a batch."""

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
# Experiments kept in memory.
MAX_LOADED = 2


@dataclass(eq=False)
class QueuedRequest:
    """A text to synthesize and its progress: `num_seconds` are decoded, of about `guessed_seconds`."""

    checkpoint: Checkpoint
    sampling: SamplingSettings
    text: str
    prompt_text: str
    prompt_audio: Path
    state: Literal["waiting", "loading the model", "speaking"] = "waiting"
    num_seconds: float = 0.0
    guessed_seconds: float = math.inf
    done: "Future[Speech]" = field(default_factory=Future)


class SynthesisQueue:
    """Runs requests in its own thread. Loads experiments on demand and keeps the `MAX_LOADED` last used."""

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
        """Append a request to the queue; `request.done` receives its Speech or an exception."""
        with self._changed:
            self._waiting.append(request)
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread at the next frame; all unfinished requests fail with UserError."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def load(self, checkpoint: Checkpoint) -> Synthesizer:
        """Return the experiment's synthesizer, from memory if it is there. Raises UserError if it cannot be loaded."""
        folder = experiment_of(checkpoint)
        found = self._loaded.pop(folder, None)
        if found is None or found[0] != checkpoint:
            # Free the old model before loading the new one: there may be no memory for both.
            found = None
            while len(self._loaded) >= MAX_LOADED:
                # The dictionary is in order of last use.
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
        """Synthesize the first request with all that fit in its batch; errors go to the requests they concern.

        This is not part of `_run`, so that no local variable keeps a model alive while the next one is loaded.
        """
        first.state = "loading the model"
        try:
            synthesizer = self.load(first.checkpoint)
        except Exception as error:
            _fail(self._take(first), error)
            return
        group = self._take(first, synthesizer.settings.max_batch_size)
        try:
            self._speak_group(synthesizer, group)
        except Exception as error:
            _fail(group, error)

    def _take(self, first: QueuedRequest, most: int | None = None) -> list[QueuedRequest]:
        """Remove the first request and those that fit in its batch, at most `most` in all, from the queue."""
        with self._changed:
            key = first.checkpoint, first.sampling
            group = [request for request in self._waiting if (request.checkpoint, request.sampling) == key][:most]
            self._waiting = [request for request in self._waiting if request not in group]
        return group

    def _speak_group(self, synthesizer: Synthesizer, group: Sequence[QueuedRequest]) -> None:
        """Synthesize a batch of one experiment and one sampling; a request that fails does not affect the others."""
        ready: list[tuple[QueuedRequest, Request]] = []
        for request in group:
            request.state = "speaking"
            try:
                prompt = read_prompt(request.prompt_audio, request.prompt_text, synthesizer.codec.sample_rate_hz)
                # Assume the speaking rate of the prompt.
                request.guessed_seconds = prompt.seconds * len(request.text) / len(prompt.text)
                ready.append((request, Request(request.text, prompt.text, prompt.audio)))
            except Exception as error:
                request.done.set_exception(error)

        def on_frames(num_frames: int) -> None:
            if self._is_closed:
                raise UserError(_CLOSING)
            for request, _ in ready:
                request.num_seconds = num_frames / synthesizer.codec.frame_rate_hz

        sampled = synthesizer.with_settings(**group[0].sampling.model_dump())
        speeches = sampled.synthesize([request for _, request in ready], on_frames=on_frames)
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
