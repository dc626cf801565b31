"""The answer to a request for speech: audio as it is made, or an error. A client that leaves frees its place."""

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send
from torch import Tensor

from synthesis.queue import QueuedRequest, SpokenText, SynthesisQueue
from utils.errors import UserError
from utils.log import log
from web.api_errors import ApiError, error_response
from web.api_metrics import ApiMetrics
from web.audio_formats import CONTENT_TYPES, AudioEncoder

_ADVICE_ON_SETTINGS = re.compile(r"(?:, or )?\b(?:raise|lower|set) infer\.\w+(?: \(\d+\))?(?:, or )?")

CLIENT_LEFT = 499
"""The status of a request whose client has closed the connection, in the metrics."""


@dataclass(frozen=True)
class ApiLimits:
    """Characters of a text, requests in the queue, and seconds that a request may take, its wait included."""

    max_characters: int = 4096
    max_waiting: int = 32
    max_seconds: float = 600.0


class _ClientLeftError(Exception):
    """The client has closed the connection."""


class SpeechResponse(Response):
    """Submits a request to the queue and sends its audio.

    The audio is sent part by part if the text has several, and in chunks inside the first part if the client asked for
    a stream. FLAC is not, as its readers need the length, and WAV only if the client asked for a stream. The status is
    sent with the first audio, so an error before that has a status of its own. After it, an error ends the connection
    early.
    """

    def __init__(
        self,
        queue: SynthesisQueue,
        limits: ApiLimits,
        metrics: ApiMetrics,
        request: QueuedRequest,
        file_format: str,
        stream_format: str | None,
    ) -> None:
        super().__init__()
        self._queue, self._limits, self._metrics, self._request = queue, limits, metrics, request
        self._format, self._is_sse = file_format, stream_format == "sse"
        self._may_stream = file_format != "flac" and (stream_format is not None or file_format != "wav")
        request.in_chunks = self._may_stream and stream_format is not None
        self._has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What it is if the server stops before the end.
        started, status = time.monotonic(), CLIENT_LEFT
        self._metrics.num_open += 1
        self._deadline = started + self._limits.max_seconds
        self._left = asyncio.ensure_future(_disconnected(receive))
        try:
            await self._answer(send, started)
            status = 200
        except _ClientLeftError:
            pass
        except ApiError as error:
            status = error.status
            # Messages may quote the text, which the log must not have.
            log.warning("a request for speech failed: status %d, %s", error.status, error.param or error.code)
            # Once audio was sent, nothing is left but to end the connection before its end.
            if not self._has_started:
                await error_response(error)(scope, receive, send)
        except Exception:
            status = 500
            raise
        finally:
            # In every case, also if the server stops: nothing of the request stays.
            self._queue.cancel(self._request)
            self._left.cancel()
            with suppress(asyncio.CancelledError):
                await self._left
            self._metrics.num_open -= 1
            self._metrics.requests.labels(status).inc()
            self._metrics.seconds.observe(time.monotonic() - started)

    async def _answer(self, send: Send, started: float) -> None:
        if self._queue.is_draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        if len(self._queue) >= self._limits.max_waiting:
            raise ApiError(503, f"{self._limits.max_waiting} requests are waiting; try again later", code="queue_full")
        encoder: AudioEncoder | None = None
        async for block in self._blocks():
            text = self._request.long_text
            assert text is not None
            is_streamed = self._may_stream and (len(text.parts) > 1 or text.chunks is not None)
            if encoder is None:
                encoder = AudioEncoder(self._format, text.sample_rate_hz, is_streamed)
                self._metrics.first_audio_seconds.observe(time.monotonic() - started)
            # Not in the event loop: the other clients would wait for it.
            content = await self._wait(run_in_threadpool(encoder.add, block))
            if is_streamed:
                await self._send_audio(send, content)
        assert encoder is not None
        self._metrics.audio_seconds.inc(self._request.done.result().seconds)
        content = await self._wait(run_in_threadpool(encoder.finish))
        if not self._has_started and not self._is_sse:
            await self._start(send, len(content))
            await self._send(send, content, is_last=True)
            return
        await self._send_audio(send, content)
        await self._send(send, self._done_event() if self._is_sse else b"", is_last=True)

    async def _blocks(self) -> AsyncIterator[Tensor]:
        """The blocks of the audio as they come, or all of it as one. Raises ApiError if there is no speech."""
        loop = asyncio.get_running_loop()
        found: asyncio.Queue[Tensor | None] = asyncio.Queue()
        if self._may_stream:
            self._request.on_block = lambda block: _call_soon(loop, found, block)
        self._request.done.add_done_callback(lambda _: _call_soon(loop, found, None))
        self._queue.submit(self._request)
        while (block := await self._wait(found.get())) is not None:
            yield block
        speech = self._speech()
        if not self._may_stream:
            yield speech.audio

    def _speech(self) -> SpokenText:
        """The finished speech. Raises ApiError if there is none."""
        try:
            speech = self._request.done.result()
        except UserError as error:
            if self._queue.is_draining:
                raise ApiError(503, "the server is shutting down", code="shutting_down") from None
            field = self._request.source_of_errors
            raise ApiError(400, f"{field}: {for_client(error)}", field) from None
        except Exception as error:
            log.exception("a request for speech failed")
            raise ApiError(500, "something went wrong on the server; see its log") from error
        if not speech.has_speech:
            # A client that tries again would get the same.
            raise ApiError(422, f"input: {for_client(speech.error)}", "input", "speech_failed")
        if speech.error is not None:
            num_failed = sum("error" in part for part in speech.parts)
            log.warning("%d of %d parts of a text have no speech", num_failed, len(speech.parts))
        return speech

    async def _wait(self, coroutine: Any) -> Any:
        """The result of a coroutine. Raises _ClientLeftError if the client leaves, and ApiError at the time limit."""
        task = asyncio.ensure_future(coroutine)
        seconds = max(0.0, self._deadline - time.monotonic())
        try:
            await asyncio.wait({task, self._left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if self._left.done():
                raise _ClientLeftError
            raise ApiError(504, f"the speech took longer than {self._limits.max_seconds:g} s", code="timeout")
        finally:
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _start(self, send: Send, num_bytes: int | None) -> None:
        kind = "text/event-stream" if self._is_sse else CONTENT_TYPES[self._format]
        headers = [(b"content-type", kind.encode()), (b"x-request-id", uuid4().hex.encode())]
        headers += [] if num_bytes is None else [(b"content-length", str(num_bytes).encode())]
        headers += [(b"cache-control", b"no-cache")] if self._is_sse else []
        self._has_started = True
        await self._wait(send({"type": "http.response.start", "status": 200, "headers": headers}))

    async def _send(self, send: Send, content: bytes, is_last: bool = False) -> None:
        await self._wait(send({"type": "http.response.body", "body": content, "more_body": not is_last}))

    async def _send_audio(self, send: Send, content: bytes) -> None:
        """Send the next bytes of a stream, with SSE as an event."""
        if not self._has_started:
            await self._start(send, None)
        if content and self._is_sse:
            audio = base64.b64encode(content).decode()
            content = _event({"type": "speech.audio.delta", "audio": audio})
        if content:
            await self._send(send, content)

    def _done_event(self) -> bytes:
        """The last event; the tokens are the phones of the text and the frames of the speech."""
        text = self._request.long_text
        assert text is not None
        num_phones = sum(part.num_phones for part in text.parts)
        num_frames = round(text.num_samples / text.sample_rate_hz * text.frame_rate_hz * text.settings.speed)
        counts = {"input_tokens": num_phones, "output_tokens": num_frames, "total_tokens": num_phones + num_frames}
        return _event({"type": "speech.audio.done", "usage": counts})


def for_client(message: object) -> str:
    """The message without its advice on settings, which a client cannot change."""
    return _ADVICE_ON_SETTINGS.sub("", str(message))


async def _disconnected(receive: Receive) -> None:
    """Returns when the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _call_soon(loop: asyncio.AbstractEventLoop, found: "asyncio.Queue[Tensor | None]", block: Tensor | None) -> None:
    # The loop may be closed when a request ends with the server.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(found.put_nowait, block)


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()
