"""What the tests share: tiny settings, models and made-up utterances."""

import logging
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from config.schema import InferSettings, PreprocessSettings, RecordingsSettings, Section, TrainSettings, ValleSettings
from processors.codecs.mel_rvq import MelRVQ
from processors.manifest import Utterance
from utils.config import load_settings

ROOT = Path(__file__).resolve().parents[1]


def find_test_data(variable: str | None) -> Path:
    """The folder that VALLET_TEST_DATA names, with recordings, golden numbers and networks that some tests need.

    Where it is not set, the null device, which has no files below it.
    """
    folder = Path(variable or os.devnull).absolute()
    if variable and not folder.is_dir():
        raise pytest.UsageError(f"VALLET_TEST_DATA: no folder {folder}")
    return folder


TEST_DATA = find_test_data(os.environ.get("VALLET_TEST_DATA"))


# They take a minute and more.
LONG_FILES = {"test_processes.py", "test_second_model.py", "test_faults.py", "test_settings_effect.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that all processes of a run end at about the same time."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


class Defaults(Section):
    """What `config/valle.json` and its bases hold: an experiment without its corpora."""

    model_type: str
    log_dir: str
    recordings: RecordingsSettings
    preprocess: PreprocessSettings
    model: ValleSettings
    train: TrainSettings
    infer: InferSettings


# Tiny models run no faster on many threads.
torch.set_num_threads(1)


class _Unsteady(SimpleHTTPRequestHandler):
    """Serves files, but for the first request, which is refused, and the first for a tar file, which is cut off."""

    def do_GET(self) -> None:
        troubles: set[str] = vars(self.server).setdefault("troubles", {"refuse", "cut"})
        path = Path(self.translate_path(self.path))
        if "refuse" in troubles:
            troubles.remove("refuse")
            self.send_error(503)
        elif path.suffix == ".tar" and "cut" in troubles:
            troubles.remove("cut")
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """A function that serves a folder and gives its URL; the server has troubles at first."""
    with ExitStack() as stack:

        def start(folder: Path) -> str:
            handler = partial(_Unsteady, directory=str(folder))
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_address[1]}"

        yield start


def requires(path: Path) -> pytest.MarkDecorator:
    """Skips tests where a part of `TEST_DATA` is not there."""
    return pytest.mark.skipif(not path.exists(), reason=f"VALLET_TEST_DATA names no folder with {path.name}")


def free_port() -> int:
    """A port that is free, and that no outgoing connection gets before the caller uses it."""
    while True:
        # Below the ports that Linux gives to outgoing connections. The seeds of tests must not make it the same one.
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Messages(logging.Handler):
    """Keeps what is logged, once, whatever other handlers there are."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def tiny_model(**changes) -> ValleSettings:
    settings = {
        "decoder_dim": 32,
        "nhead": 2,
        "num_decoder_layers": 2,
        "norm_first": True,
        "add_prenet": False,
        "dropout": 0.0,
        "prefix_mode": 1,
        "share_embedding": True,
        "nar_scale_factor": 1.0,
        "nar_num_decoder_layers": None,
        "prepend_bos": False,
        "group_size": 1,
        "num_quantizers": 4,
        "text_token_num": 32,
        "audio_token_num": 20,
    }
    return ValleSettings(**{**settings, **changes})


def made_up_utterances(num: int, num_quantizers: int = 4, num_codes: int = 20, seed: int = 0) -> list[Utterance]:
    """Utterances of three speakers with random phones (a to h) and codes."""
    rng = np.random.default_rng(seed)
    return [
        Utterance(
            id=f"utterance_{index:04d}",
            text="made up",
            phones=tuple(rng.choice(list("abcdefgh"), rng.integers(3, 12))),
            speaker=f"speaker_{index % 3}",
            codes=rng.integers(0, num_codes, (int(rng.integers(8, 40)), num_quantizers)).astype(np.int16),
        )
        for index in range(num)
    ]


@cache
def defaults() -> Defaults:
    return load_settings(ROOT / "config" / "valle.json", Defaults, root=ROOT)


def tiny_infer(**changes) -> InferSettings:
    exact = {"min_seconds_per_phone": 0.02, "max_seconds_per_phone": 0.4, "min_seconds": 0, "slack_seconds": 0}
    return InferSettings(**{**defaults().infer.model_dump(), **exact, **changes})


def tiny_train(**changes) -> TrainSettings:
    settings = defaults().train.model_dump()
    settings |= {"dataloader": {"num_worker": 0}, "precision": "fp32", "max_tokens": 200, "tracker": []}
    return TrainSettings(**{**settings, **changes})


@pytest.fixture(scope="session")
def codec() -> MelRVQ:
    """A fitted codec of 25 frames a second that costs little."""
    rate_hz = 24000
    settings = defaults().preprocess.mel_rvq.model_copy(
        update={"frame_rate_hz": 25.0, "num_mels": 20, "fit_iterations": 1, "griffin_lim_iterations": 1}
    )
    generator = torch.Generator().manual_seed(0)
    return MelRVQ.fit([torch.rand(4 * rate_hz, generator=generator) - 0.5], settings, rate_hz)
