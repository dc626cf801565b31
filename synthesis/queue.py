"""One thread that synthesizes for all users, part by part. Parts for the same model and sampling form a batch."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from config.schema import SpeechSettings
from models.contract import DraftsSoFar
from synthesis.long_texts import LongText, ResultRow, next_batch, synthesize_parts
from synthesis.subtitles import make_cues, write_subtitles
from synthesis.synthesizer import Request, Synthesizer
from utils.audio import write_audio
from utils.checkpoint import Checkpoint, experiment_of
from utils.device import release_memory
from utils.errors import MemoryExceededError, UserError
from utils.prompts import Prompt

_CLOSING = "the server is closing"
# Experiments kept in memory.
MAX_LOADED = 2


@dataclass(frozen=True)
class SpokenText:
    """The audio (N,) of a text, in [-1, 1], and what `results.jsonl` of stage 3 would say of it."""

    text: str
    audio: Tensor
    sample_rate_hz: int
    summary: ResultRow

    @property
    def seconds(self) -> float:
        return len(self.audio) / self.sample_rate_hz

    @property
    def ended(self) -> str:
        """How the speech ended: "eos" is success; "cap", "floor" and "silent" are not, and `error` says why."""
        return str(self.summary["ended"])

    @property
    def error(self) -> str | None:
        """Why some or all of the audio is not speech of the text, and what to do; None if all of it is."""
        return self.summary.get("error")

    @property
    def language(self) -> str:
        """The language in which the text was read."""
        return str(self.summary["language"])

    @property
    def parts(self) -> list[ResultRow]:
        """The parts of the text: each with its `text`, its `start` and `end` in seconds, and how it `ended`."""
        return list(self.summary["parts"])

    @property
    def words(self) -> list[dict[str, Any]]:
        """Each `word`, its `start` and `end` in seconds; none if the model has no attention to find them by."""
        return list(self.summary.get("words", ()))

    @property
    def suspects(self) -> list[dict[str, Any]]:
        """Words that may be wrong: the `problem`, the `word` and its `time` in seconds."""
        return list(self.summary.get("suspects", ()))

    @property
    def has_speech(self) -> bool:
        """Whether at least one part is speech of its text."""
        return any("error" not in row for row in self.parts)

    def save(self, path: str | Path, subtitles: Literal["srt", "vtt"] | None = None) -> None:
        """Write the audio as 16-bit WAV, and perhaps subtitles beside it.

        Raises UserError if there are no times of words for them.
        """
        if subtitles is not None and "words" not in self.summary:
            raise UserError("subtitles need the times of words; load a model that has them with infer.word_times true")
        write_audio(Path(path), self.audio, self.sample_rate_hz)
        if subtitles is not None:
            write_subtitles(Path(path).with_suffix(f".{subtitles}"), make_cues(self.text, self.words, self.language))


@dataclass(eq=False)
class QueuedRequest:
    """A text to synthesize and its progress: `num_seconds` are decoded, of about `guessed_seconds`.

    `load_prompt` is called in the queue's thread, with the model's synthesizer. `on_block` is called there with each
    next block of the audio, before `done` has all of it; the first block then takes as little time as possible. With
    `in_chunks` the first part is itself sent in several blocks, as `infer.stream_first_frames` says.
    """

    checkpoint: Checkpoint
    settings: SpeechSettings
    text: str
    load_prompt: Callable[[Synthesizer], Prompt]
    on_block: Callable[[Tensor], None] | None = None
    in_chunks: bool = False
    state: Literal["waiting", "loading the model", "speaking"] = "waiting"
    num_seconds: float = 0.0
    guessed_seconds: float = math.inf
    done: "Future[SpokenText]" = field(default_factory=Future)
    long_text: LongText | None = None
    blocks: list[Tensor] = field(default_factory=list)
    parts: list[ResultRow] = field(default_factory=list)
    was_interrupted: bool = False
    source_of_errors: Literal["model", "voice", "input"] = "model"
    """What a UserError of the request is about, by how far it has come; "voice" is the prompt, and "input" the text."""

    @property
    def is_long(self) -> bool:
        return self.long_text is not None and len(self.long_text.parts) > 1

    def add_block(self, audio: Tensor) -> None:
        self.blocks.append(audio)
        if self.on_block is not None:
            self.on_block(audio)

    def fits(self, other: "QueuedRequest") -> bool:
        """Whether the two can be in one batch. Each has its own seed, speed and loudness."""
        same = {"seed": 0, "speed": 1.0, "loudness_lufs": None}
        own, others = (request.settings.model_copy(update=same) for request in (self, other))
        return self.checkpoint == other.checkpoint and own == others


class _BatchEndedError(Exception):
    """Ends a batch before its last frame."""


class SynthesisQueue:
    """Runs requests in its own thread. Loads experiments on demand and keeps the `MAX_LOADED` last used.

    Requests take turns. A turn is one batch: parts of the request and of others that fit, one of each in turn. A batch
    of long texts pauses for new short texts for the same model. Its pauses may take as much time as its own work. Any
    other new request ends the batch while codes are sampled: its parts are synthesized again in their next turn, which
    no other request ends.
    """

    def __init__(self, build: Callable[[Checkpoint], Synthesizer]) -> None:
        self._build = build
        self._loaded: dict[Path, tuple[Checkpoint, Synthesizer]] = {}
        # All requests that are not done, in the order of their turns.
        self._waiting: list[QueuedRequest] = []
        self._changed = threading.Condition()
        self._is_closed, self.is_draining = False, False
        self._thread = threading.Thread(target=self._run, name="synthesis queue", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: QueuedRequest) -> None:
        """Append a request to the queue; `request.done` receives its speech or an exception."""
        with self._changed:
            if not self._is_closed and not self.is_draining:
                self._waiting.append(request)
                self._changed.notify()
                return
        request.done.set_exception(UserError(_CLOSING))

    def __len__(self) -> int:
        """How many requests are not done."""
        return len(self._waiting)

    def cancel(self, request: QueuedRequest) -> None:
        """Remove a request from the queue, which fails with UserError. Its batch ends if nobody waits for it."""
        self._end([request], UserError("the request was cancelled"))

    def drain(self) -> None:
        """Refuse new requests, and finish those that were submitted."""
        self.is_draining = True

    def close(self) -> None:
        """Stop the thread at the next frame; all unfinished requests fail with UserError."""
        with self._changed:
            self._is_closed = self.is_draining = True
            self._changed.notify()
        # Garbage that is collected in the queue's own thread may be what closes the queue.
        if self._thread.is_alive() and self._thread is not threading.current_thread():
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
                waiting = list(self._waiting)
            if self._is_closed:
                self._end(waiting, UserError(_CLOSING))
                return
            self._take_turn(waiting)

    def _take_turn(self, waiting: Sequence[QueuedRequest]) -> None:
        """Synthesize the next parts of the first request with all that fit; errors go to the requests they concern.

        This is not part of `_run`, so that no local variable keeps a model alive while the next one is loaded.
        """
        first = waiting[0]
        if first.long_text is None:
            first.state = "loading the model"
        try:
            synthesizer = self.load(first.checkpoint)
        except Exception as error:
            self._end([request for request in waiting if request.checkpoint == first.checkpoint], error)
            return
        group = [request for request in waiting if request.fits(first)]
        self._prepare(group, synthesizer)
        group = [request for request in group if not request.done.done() and request.is_long == first.is_long]
        # The first request may have failed or been cancelled; the others are left for the next turn.
        if first in group:
            self._synthesize_next(synthesizer, group)

    def _synthesize_next(
        self, synthesizer: Synthesizer, group: Sequence[QueuedRequest], in_pause: bool = False
    ) -> None:
        """Synthesize the next parts of requests that fit the first; errors go to all that are in the batch."""
        by_text = {request.long_text: request for request in group if request.long_text is not None}
        batch = next_batch(list(by_text), synthesizer.texts_per_batch)
        members = [by_text[text] for text, _ in batch]
        try:
            self._synthesize(synthesizer.with_settings(**group[0].settings.model_dump()), batch, members, in_pause)
        except _BatchEndedError:
            for request in members:
                request.was_interrupted = True
        except Exception as error:
            self._end(members, error)
        with self._changed:
            # Whoever had a turn goes to the end.
            self._waiting.sort(key=lambda request: request in members)

    # A batch calls this in inference mode, whose tensors could not be changed by those who get the audio.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _synthesize_short(self, synthesizer: Synthesizer, requests: Sequence[QueuedRequest]) -> None:
        """Synthesize one batch of those requests that have short texts, while a batch of long ones pauses."""
        self._prepare(requests, synthesizer)
        short = [request for request in requests if not request.is_long and not request.done.done()]
        if short:
            self._synthesize_next(synthesizer, [request for request in short if request.fits(short[0])], in_pause=True)

    def _prepare(self, requests: Sequence[QueuedRequest], synthesizer: Synthesizer) -> None:
        """Read prompts and split texts where that is not done; a request for which this is not possible fails."""
        for request in requests:
            if request.long_text is not None or request.done.done():
                continue
            try:
                sampled = synthesizer.with_settings(**request.settings.model_dump())
                request.source_of_errors = "voice"
                prompt = request.load_prompt(synthesizer)
                request.source_of_errors = "input"
                request.long_text = LongText(sampled, request.text, prompt)
                request.long_text.is_streamed = request.on_block is not None
                if request.in_chunks:
                    request.long_text.send_chunks(request.add_block)
                request.guessed_seconds = request.long_text.guessed_seconds
            except Exception as error:
                self._end([request], error)

    def _synthesize(
        self,
        synthesizer: Synthesizer,
        batch: Sequence[tuple[LongText, Request]],
        members: Sequence[QueuedRequest],
        in_pause: bool,
    ) -> None:
        """Synthesize a batch of parts; `members` has the request of each. Raises _BatchEndedError if it ends early."""
        for request in members:
            request.state = "speaking"
        # A text of one part would lose more by a pause than a new request gains. Those who hear the first part already
        # would wait for the rest of it.
        may_pause = all(request.is_long for request in members) and not any(text.is_sending for text, _ in batch)
        may_end = may_pause and not any(request.was_interrupted for request in members)
        rate_hz, frame_rate_hz = synthesizer.codec.sample_rate_hz, synthesizer.codec.frame_rate_hz
        checkpoint, started, paused_seconds = members[0].checkpoint, time.monotonic(), 0.0

        def on_group() -> None:
            nonlocal paused_seconds
            # One that did not fit into the memory beside this batch waits for its own turn.
            new = [one for one in self._waiting if one.state == "waiting" and not one.was_interrupted]
            now = time.monotonic()
            if may_pause and new and paused_seconds <= now - started - paused_seconds:
                self._synthesize_short(synthesizer, [one for one in new if one.checkpoint == checkpoint])
                paused_seconds += time.monotonic() - now
            if self._is_closed or all(request.done.done() for request in members):
                raise _BatchEndedError

        def on_frames(num_frames: int, drafts: DraftsSoFar) -> None:
            on_group()
            new = [request for request in self._waiting if request.state == "waiting"]
            if may_end and any(one.is_long or one.was_interrupted or one.checkpoint != checkpoint for one in new):
                raise _BatchEndedError
            for (text, _), request in zip(batch, members, strict=True):
                num_seconds = num_frames / (frame_rate_hz * request.settings.speed)
                request.num_seconds = text.num_samples / rate_hz + members.count(request) * num_seconds

        request_of = dict(zip((text for text, _ in batch), members, strict=True))
        for text, audio, row in synthesize_parts(synthesizer, batch, on_frames=on_frames, on_group=on_group):
            request = request_of[text]
            request.was_interrupted = False
            request.parts.append(row)
            request.add_block(audio)
        for text, request in request_of.items():
            if in_pause and isinstance(text.error, MemoryExceededError):
                text.give_back()
                text.error, request.state, request.was_interrupted = None, "waiting", True
            elif text.error is not None:
                self._end([request], text.error)
            elif text.is_done:
                # Failed speech is handed over, too: one may want to listen to it.
                audio, summary = torch.cat(request.blocks), text.summary(request.parts)
                speech = SpokenText(text.text, audio, text.sample_rate_hz, summary)
                self._end([request], speech)

    def _end(self, requests: Sequence[QueuedRequest], result: SpokenText | Exception) -> None:
        """Remove requests from the queue with a result; those that are done already keep theirs."""
        with self._changed:
            self._waiting = [request for request in self._waiting if request not in requests]
            for request in requests:
                if request.done.done():
                    continue
                if isinstance(result, Exception):
                    request.done.set_exception(result)
                else:
                    request.done.set_result(result)
