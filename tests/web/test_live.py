"""Speech that is read while it is made."""

import asyncio
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import soundfile
import torch

from config.schema import SpeechSettings
from synthesis.queue import QueuedRequest
from tests.conftest import tiny_infer
from utils.checkpoint import Checkpoint
from utils.errors import UserError
from web.live import LiveSpeech, LiveSpeeches

RATE_HZ = 24000


def make_request() -> QueuedRequest:
    """A request that nobody synthesizes."""
    settings: SpeechSettings = tiny_infer().speech_settings()
    request = QueuedRequest(Checkpoint(Path("none"), 0, 0, 0.0), settings, "", cast(Any, None))
    request.long_text = cast(Any, SimpleNamespace(sample_rate_hz=RATE_HZ))
    return request


async def read(live: LiveSpeech) -> list[bytes]:
    return [chunk async for chunk in live.chunks()]


def test_readers_get_all_blocks_whenever_they_begin() -> None:
    request = make_request()
    live = LiveSpeech(request)
    blocks = list(torch.sin(torch.arange(3 * RATE_HZ) / 20).split(RATE_HZ))

    async def run() -> list[list[bytes]]:
        early = asyncio.create_task(read(live))
        await asyncio.sleep(0.1)
        assert not live.has_audio
        request.on_block(blocks[0])
        assert live.has_audio
        await asyncio.sleep(0.2)
        middle = asyncio.create_task(read(live))
        for block in blocks[1:]:
            request.on_block(block)
        await asyncio.sleep(0.2)
        request.done.set_exception(UserError("what came before is still there"))
        return [await early, await middle, await read(live)]

    first, *others = asyncio.run(run())
    assert len(first) > 1
    assert all(b"".join(found) == b"".join(first) for found in others)
    samples, rate_hz = soundfile.read(io.BytesIO(b"".join(first)))
    assert rate_hz == RATE_HZ and abs(len(samples) - 3 * RATE_HZ) < 0.1 * RATE_HZ


def test_a_request_that_fails_before_its_first_block_has_no_bytes() -> None:
    request = make_request()
    live = LiveSpeech(request)
    request.done.set_exception(UserError("no"))
    assert asyncio.run(read(live)) == []


def test_only_the_last_ones_are_kept() -> None:
    speeches = LiveSpeeches()
    sources = [speeches.add(make_request())[0] for _ in range(100)]
    assert len(set(sources)) == 100 and len(speeches._found) == 64
