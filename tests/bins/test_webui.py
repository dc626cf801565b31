"""Stage 5: a server that answers until it is stopped, and its messages if it cannot start."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file

import bins.voices
import bins.webui
from tests.conftest import free_port
from tests.support.recipe import Recipe, prompt
from tests.support.serving import run_server, signals_restored
from tests.support.tiny_runs import ROOMY, let_speech_end, sets


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server changes these for its whole process."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    with signals_restored():
        yield


def test_the_server_answers_until_it_is_stopped_and_leaves_no_files(
    trained: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("VALLET_VOICES", str(tmp_path / "voices"))
    port, lines = free_port(), []
    experiment = trained.copied("nar", "nar_of_the_page")
    let_speech_end(experiment)
    audio, text = prompt(trained.corpus, "103")
    own = ("--infer_expt_dir", str(experiment))
    assert trained.call(bins.voices, "add", "anna", *own, "--audio", str(audio), "--text", text) == 0
    speech: list[bytes] = []

    def use(url: str) -> None:
        # The page asks for the key as a password.
        assert httpx.get(f"{url}/config").status_code == 401
        client = Client(url, auth=("anyone", "secret"), verbose=False, analytics_enabled=False)
        fields = {"text": "The old house.", "prompt_audio": handle_file(str(audio)), "prompt_text": text}
        for given in (fields, {**fields, "prompt_audio": None, "prompt_text": ""}):
            path, _, line, _ = client.predict(**given, api_name="/speak")
            lines.append(line)
            speech.append(Path(path).read_bytes())
        client.close()
        # The API answers beside the page.
        headers = {"Authorization": "Bearer secret"}
        body = {"input": "The old house.", "response_format": "wav"}
        speech.append(httpx.post(f"{url}/v1/audio/speech", json=body, headers=headers, timeout=300).content)
        assert httpx.get(f"{url}/v1/models", headers=headers).json()["data"][0]["id"] == "nar_of_the_page"
        assert httpx.get(f"{url}/v1/none", headers=headers).json()["error"]["code"] == "unknown_url"
        assert httpx.post(f"{url}/v1/audio/speech", json=body).status_code == 401

    flags = ("--config", str(trained.config), "--port", str(port), "--set", "infer.seed=3", *sets(ROOMY))
    flags = (*flags, "--infer_voice", "anna", "--api_key", "secret")
    # 128 and the number of SIGTERM.
    assert run_server(lambda: trained.call(bins.webui, *flags, *own), port, use) == 143
    # The prompt, the voice that was made from it, and the API give the same speech.
    assert all("; seed 3" in line for line in lines) and len(set(speech)) == 1
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
