"""Many requests to the API, most of which leave early: `python -m tests.support.disconnects NUM`.

Starts a server of its own with a tiny pair, prints threads, open files, queue entries and memory ten times, and checks
at the end that they did not grow.
"""

import gc
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from tests.conftest import free_port
from web.api import SpeechApi, build_api

PATH = "/v1/audio/speech"
TEXT = "Early birds find apples."
LONG = f"{TEXT}\n\nTall trees near quiet rivers.\n\nSmall."
GOOD = {"model": "nar", "voice": "anna", "input": TEXT}


@contextmanager
def served(api: SpeechApi) -> Iterator[str]:
    """A server in a thread; gives its address."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(build_api(api), port=port, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    api.queue.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
    api.queue.close()


def leave(url: str, body: dict[str, Any], num_bytes: int) -> None:
    """Send a request, read so many bytes of the answer, and leave."""
    host, port = url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    fields = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + content)
        if num_bytes:
            connection.recv(num_bytes)
        else:
            # Some leave before, and some during synthesis.
            time.sleep(np.random.default_rng(len(content)).uniform(0, 0.2))


def use(url: str, seed: int) -> None:
    """One request, drawn with a seed: three of ten are answered, and the others leave at some time."""
    draw = np.random.default_rng(seed)
    body = {**GOOD, "input": (TEXT, LONG)[seed % 2], "stream_format": ("audio", "sse")[seed // 2 % 2], "seed": seed}
    if draw.random() < 0.3:
        httpx.post(url + PATH, json=body, timeout=600)
    else:
        leave(url, body, int(draw.choice([0, 1, 300])))


def wait_until(is_there: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def num_open_files() -> int:
    """Open files and connections of this process."""
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 (an iterator would count itself)


@dataclass(frozen=True)
class _State:
    """What is there while the server has nothing to do. The memory is in MiB."""

    threads: int
    files: int
    queued: int
    open_requests: int
    memory: int

    @classmethod
    def of(cls, api: SpeechApi) -> "_State":
        gc.collect()
        status = Path("/proc/self/status").read_text()
        memory = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        counts = threading.active_count(), num_open_files(), len(api.queue), api.metrics.num_open
        return cls(*counts, int(memory) // 1024)

    def check(self, first: "_State") -> None:
        """Raises AssertionError if requests left something behind since the `first` state."""
        assert self.queued == self.open_requests == 0, self
        # The server's pool of threads grows to its bound. The last connections may be about to be closed.
        assert self.threads <= first.threads + 12 and self.files <= first.files + 8, (first, self)
        assert self.memory <= first.memory + 64, (first, self)


def main(num: int) -> None:
    from synthesis.load import load_experiment
    from synthesis.queue import SynthesisQueue
    from synthesis.voices import Voice, write_voice
    from tests.support.pair import train_pair
    from utils.prompts import prepare_prompt
    from web.experiments import ExperimentList

    with tempfile.TemporaryDirectory() as folder:
        trained = train_pair(Path(folder))
        synthesizer = load_experiment(trained.nar, "")[0]
        audio, text = trained.prompt()
        voice = Voice.from_prompt(prepare_prompt(audio, text, synthesizer.codec.sample_rate_hz), synthesizer)
        write_voice(voice, trained.nar / "voices" / "anna.safetensors")
        queue = SynthesisQueue(lambda checkpoint: load_experiment(checkpoint.path, "")[0])
        api = SpeechApi(queue, ExperimentList(trained.log_dir), lambda experiment: experiment.settings().infer)
        with served(api) as url:
            states: list[_State] = []
            for first in range(0, num, max(1, num // 10)):
                with ThreadPoolExecutor(8) as pool:
                    list(pool.map(lambda seed: use(url, seed), range(first, min(num, first + max(1, num // 10)))))
                wait_until(lambda: len(api.queue) == api.metrics.num_open == 0)
                states.append(_State.of(api))
                print(min(num, first + max(1, num // 10)), states[-1], flush=True)
            # The first requests also load what stays: compare with the state after them.
            states[-1].check(states[0])
        print("after the server", _State.of(api), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
