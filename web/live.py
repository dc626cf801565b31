"""Speech that a browser plays while more of it is synthesized."""

import asyncio
import threading
from collections.abc import AsyncIterator
from uuid import uuid4

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from torch import Tensor

from synthesis.queue import QueuedRequest
from web.audio_formats import CONTENT_TYPES, AudioEncoder

LIVE_PATH = "live"
# Of MP3, some hundred kilobytes each.
_MAX_KEPT = 64
_POLL_SECONDS = 0.05


class LiveSpeech:
    """The audio of a request as MP3, from the first block on. It may be read several times, as browsers do."""

    def __init__(self, request: QueuedRequest) -> None:
        self._request = request
        self._pending: list[Tensor] = []
        self._content = bytearray()
        self._encoder: AudioEncoder | None = None
        self._is_ended = self._is_encoded = self.has_audio = False
        self._lock = threading.Lock()
        request.on_block = self._add
        request.done.add_done_callback(lambda _: self._end())

    def _add(self, block: Tensor) -> None:
        with self._lock:
            self._pending.append(block)
        self.has_audio = True

    def _end(self) -> None:
        self._is_ended = True

    def encode(self) -> bool:
        """Encode the blocks that have come; returns whether they were the last ones."""
        with self._lock:
            # In this order: no block comes after the end.
            is_ended, pending = self._is_ended, self._pending
            self._pending = []
            text = self._request.long_text
            if self._encoder is None and pending and text is not None:
                self._encoder = AudioEncoder("mp3", text.sample_rate_hz, is_stream=True)
            if self._encoder is not None and not self._is_encoded:
                for block in pending:
                    self._content += self._encoder.add(block)
                if is_ended:
                    self._content += self._encoder.finish()
            self._is_encoded = is_ended
            return is_ended

    async def chunks(self) -> AsyncIterator[bytes]:
        """The MP3 from its beginning, as it is made."""
        position, is_last = 0, False
        while not is_last:
            is_last = await run_in_threadpool(self.encode)
            if position < len(self._content):
                chunk = bytes(self._content[position:])
                position += len(chunk)
                yield chunk
            elif not is_last:
                await asyncio.sleep(_POLL_SECONDS)


class LiveSpeeches:
    """The last requests that browsers play, by names that cannot be guessed."""

    def __init__(self) -> None:
        self._found: dict[str, LiveSpeech] = {}
        self._lock = threading.Lock()

    def add(self, request: QueuedRequest) -> tuple[str, LiveSpeech]:
        """Stream a request that is not submitted yet; returns the address of its audio, from the page on."""
        name, live = uuid4().hex, LiveSpeech(request)
        with self._lock:
            while len(self._found) >= _MAX_KEPT:
                self._found.pop(next(iter(self._found)))
            self._found[name] = live
        return f"{LIVE_PATH}/{name}.mp3", live

    def mount(self, app: FastAPI) -> None:
        """Serve the audio."""

        @app.get(f"/{LIVE_PATH}/{{name}}.mp3")
        async def live(name: str) -> Response:
            found = self._found.get(name)
            if found is None:
                return Response(status_code=404)
            return StreamingResponse(
                found.chunks(), media_type=CONTENT_TYPES["mp3"], headers={"Cache-Control": "no-store"}
            )
