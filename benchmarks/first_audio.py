"""The time to the first audio of a stream, and of all of it, as a client of the HTTP API sees it."""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from benchmarks.measure import Row
from synthesis.voices import list_voices
from utils.paths import ROOT

TEXT = "The birch canoe slid on the smooth planks, and nobody saw it at the edge of the dark forest."
JOB = "stream of the API, the pretrained pair"
GOAL, GOAL_SECONDS = "first audio within 0.5 s", 0.5
NUM_REQUESTS = 7
_START_SECONDS = 600
# Of the API's `pcm`.
_PCM_RATE_HZ = 24000


def rows(experiment: Path) -> list[Row]:
    """With an experiment that has a voice of its own. The server and its model are warm."""
    if not (experiment / "args.json").is_file() or not list_voices(experiment):
        return [Row(JOB, goal=GOAL, note="not measured")]
    return [_row(experiment, in_chunks) for in_chunks in (True, False)]


def _row(experiment: Path, in_chunks: bool) -> Row:
    """`seconds` are those to the first audio, `rate` is that of the whole answer."""
    with serving(experiment, [] if in_chunks else ["infer.stream_first_frames=0"]) as port:
        request_speech(port)
        answers = [request_speech(port) for _ in range(NUM_REQUESTS)]
    first = statistics.median(answer[0] for answer in answers)
    speed = statistics.median(num_bytes / 2 / _PCM_RATE_HZ / seconds for _, seconds, num_bytes in answers)
    if not in_chunks:
        return Row(f"{JOB}: first audio, by whole parts", first, speed, "x real time")
    return Row(f"{JOB}: first audio", first, speed, "x real time", goal=GOAL, goal_met=first <= GOAL_SECONDS)


@contextmanager
def serving(experiment: Path, overrides: list[str]) -> Iterator[int]:
    """The port of a server in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    flags = ["--infer_expt_dir", str(experiment), "--log_dir", str(experiment), "--port", str(port)]
    command = [sys.executable, "-m", "bins.serve", *flags, *(f"--set={change}" for change in overrides)]
    server = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stderr=subprocess.DEVNULL)
    try:
        _wait_for(server, port)
        yield port
    finally:
        server.terminate()
        server.wait()


def _wait_for(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start (exit status {server.poll()})")


def request_speech(port: int) -> tuple[float, float, int]:
    """Seconds from the request to the first audio and to the end, and the bytes of the audio."""
    started = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port)
    body = json.dumps({"input": TEXT, "response_format": "pcm", "stream_format": "audio"})
    connection.request("POST", "/v1/audio/speech", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    num_bytes = len(response.read(1))
    first_seconds = time.perf_counter() - started
    num_bytes += len(response.read())
    seconds = time.perf_counter() - started
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"the server answered {response.status}")
    return first_seconds, seconds, num_bytes
