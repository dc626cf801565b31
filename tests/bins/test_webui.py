"""Stage 5: a server that answers until it is stopped, and its messages if it cannot start."""

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file

import bins.webui
from tests.conftest import free_port
from tests.support.recipe import Recipe, prompt
from tests.support.tiny_runs import ROOMY, let_speech_end, sets


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server changes these for its whole process."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_server_answers_until_it_is_stopped_and_leaves_no_files(
    trained: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    port, lines = free_port(), []
    experiment = trained.copied("nar", "nar_of_the_page")
    let_speech_end(experiment)
    audio, text = prompt(trained.corpus, "103")

    has_ended = threading.Event()

    def is_listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def use_and_stop() -> None:
        while not is_listening():
            if has_ended.wait(0.05):
                return
        try:
            client = Client(f"http://127.0.0.1:{port}", verbose=False, analytics_enabled=False)
            fields = {"text": "The old house.", "prompt_audio": handle_file(str(audio)), "prompt_text": text}
            lines.append(client.predict(**fields, api_name="/speak")[2])
            client.close()
            # The API answers beside the page.
            lines.append(httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"][0]["id"])
            lines.append(httpx.get(f"http://127.0.0.1:{port}/v1/none").json()["error"]["code"])
        finally:
            # Its handler is installed before the server listens.
            os.kill(os.getpid(), signal.SIGTERM)

    user = threading.Thread(target=use_and_stop)
    user.start()
    flags = ("--config", str(trained.config), "--port", str(port), "--set", "infer.seed=3", *sets(ROOMY))
    try:
        # 128 and the number of SIGTERM.
        assert trained.call(bins.webui, *flags, "--infer_expt_dir", str(experiment)) == 143
    finally:
        has_ended.set()
        user.join()
    line, *others = lines
    assert others == ["nar_of_the_page", "unknown_url"]
    assert line.endswith("; seed 3")
    logged = capsys.readouterr().err
    assert f"the page and the API are at http://127.0.0.1:{port}/ (stop it with Ctrl-C)\n" in logged
    assert "finishing 0 requests; new ones are refused" in logged and "Traceback" not in logged
    assert not list(tmp_path.glob("vallet-*"))


def test_a_port_in_use_is_one_line(trained: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert trained.call(bins.webui, "--infer_expt_dir", str(trained.experiment("nar")), "--port", str(port)) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --host, --port: 127.0.0.1:{port} is in use or not an address of this")


def test_gradio_that_is_missing_is_one_line(
    trained: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bins.webui, "find_spec", lambda name: None)
    assert trained.call(bins.webui) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: stage 5 needs gradio; install it with pip install -e '.[web]', or all with make install"
