"""The server without a page: SIGTERM lets requests be finished, the default voice, and its mistakes."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import bins.serve
import bins.voices
from synthesis.synthesizer import Synthesizer
from tests.conftest import free_port
from tests.support.recipe import Recipe, prompt
from tests.support.serving import run_server, signals_restored
from tests.support.tiny_runs import ROOMY, let_speech_end, sets

BODY = {"model": "tts-1", "input": "The old house. It is near the river.", "response_format": "wav"}


@pytest.fixture(autouse=True)
def _restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("VALLET_VOICES", str(tmp_path / "voices"))
    with signals_restored():
        yield


@pytest.fixture(scope="module")
def experiment(trained: Recipe) -> Path:
    folder = trained.copied("nar", "nar_of_the_api")
    let_speech_end(folder)
    return folder


def test_requests_are_finished_when_the_server_is_stopped(
    trained: Recipe, experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    audio, text = prompt(trained.corpus, "103")
    own = ("--infer_expt_dir", str(experiment))
    assert trained.call(bins.voices, "add", "anna", *own, "--audio", str(audio), "--text", text) == 0
    has_begun, is_stopping, synthesize = threading.Event(), threading.Event(), Synthesizer.synthesize
    answers: list[httpx.Response] = []

    def waiting(self: Synthesizer, *given: Any, **others: Any) -> list:
        has_begun.set()
        is_stopping.wait(300)
        return synthesize(self, *given, **others)

    def say(url: str) -> None:
        headers = {"Authorization": "Bearer secret"}
        answers.append(httpx.post(f"{url}/v1/audio/speech", json=BODY, headers=headers, timeout=300))

    def use(url: str) -> None:
        is_stopping.set()
        say(url)
        is_stopping.clear()
        has_begun.clear()
        threads = [threading.Thread(target=say, args=(url,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert has_begun.wait(300)
        os.kill(os.getpid(), signal.SIGTERM)
        while httpx.get(f"{url}/health").status_code != 503:
            pass
        is_stopping.set()
        for thread in threads:
            thread.join()

    monkeypatch.setattr(Synthesizer, "synthesize", waiting)
    monkeypatch.setenv("VALLET_API_KEY", "secret")
    port = free_port()
    flags = ("--config", str(trained.config), *own, "--infer_voice", "anna", "--port", str(port), *sets(ROOMY))
    assert run_server(lambda: trained.call(bins.serve, *flags), port, use) == 143
    first, *others = answers
    assert first.status_code == 200 and len(first.content) > 1000
    # All were accepted before the signal, or refused as the server was shutting down.
    assert others and all(answer.status_code in (200, 503) for answer in others)
    assert any(answer.content == first.content for answer in others)
    logged = capsys.readouterr().err
    assert f"the API is at http://127.0.0.1:{port}/" in logged and "new ones are refused" in logged
    assert "Traceback" not in logged


MISTAKES = {
    "a port": (("--port", "0"), "--port: takes 1 to 65535, not 0"),
    "no time": (("--max_seconds", "0"), "--max_seconds: takes a number above 0, not 0.0"),
    "no queue": (("--max_waiting", "-1"), "--max_waiting: takes a number above 0, not -1"),
    "an empty key": (("--api_key", " "), "--api_key: the key is empty"),
    "an unknown voice": (("--infer_voice", "nobody"), "--infer_voice: no voice 'nobody'; there are none"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(trained: Recipe, mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags, words = MISTAKES[mistake]
    own = ("--config", str(trained.config), "--infer_expt_dir", str(trained.experiment("nar")))
    assert trained.call(bins.serve, *own, *flags) in (1, 2)
    [line] = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_library_that_is_missing_is_one_line(trained: Recipe, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(bins.serve, "find_spec", lambda name: None if name == "uvicorn" else name)
    assert trained.call(bins.serve) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: the API needs uvicorn; install it with pip install -e '.[serve]'"
