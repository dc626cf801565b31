"""Stage 5 through `run.sh`, and its messages if it cannot start."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from gradio_client import Client, handle_file

import bins.webui
from tests.conftest import ROOT, free_port
from tests.recipe import Recipe, prompt
from tests.tiny_runs import ROOMY, let_speech_end, sets

RUN_SH = ROOT / "egs" / "tts" / "VALLE" / "run.sh"


def test_the_server_answers_until_it_is_stopped_and_leaves_no_files(trained: Recipe, tmp_path: Path) -> None:
    port = free_port()
    environment = {
        "VIRTUAL_ENV": sys.prefix,
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path),
        "CUDA_VISIBLE_DEVICES": "",
    }
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    experiment = trained.copied("nar", "nar_of_the_page")
    let_speech_end(experiment)
    flags = ["--stage", "5", "--config", str(trained.config), "--port", str(port), "--set", "infer.seed=3"]
    flags += ["--infer_expt_dir", str(experiment), *sets(ROOMY)]
    server = subprocess.Popen(
        ["sh", str(RUN_SH), *flags], env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        assert server.stderr.readline() == f"the page is at http://127.0.0.1:{port}/ (stop it with Ctrl-C)\n"
        audio, text = prompt(trained.corpus, "103")
        _, _, line = Client(f"http://127.0.0.1:{port}", verbose=False, analytics_enabled=False).predict(
            text="The old house.", prompt_audio=handle_file(str(audio)), prompt_text=text, api_name="/speak"
        )
        assert line.endswith("; seed 3")
        server.send_signal(signal.SIGTERM)
        rest = server.communicate(timeout=300)[1]
    finally:
        server.kill()
    assert server.returncode == 130
    assert rest.splitlines()[-1] == "interrupted" and "Traceback" not in rest
    assert not list(tmp_path.glob("vallet-*"))


def test_a_port_in_use_is_one_line(trained: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        before = signal.getsignal(signal.SIGTERM)
        assert trained.call(bins.webui, "--infer_expt_dir", str(trained.experiment("nar")), "--port", str(port)) == 1
        signal.signal(signal.SIGTERM, before)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --host, --port: 127.0.0.1:{port} is in use or not an address of this")


def test_gradio_that_is_missing_is_one_line(
    trained: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bins.webui, "find_spec", lambda name: None)
    assert trained.call(bins.webui) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: stage 5 needs gradio; install it with pip install -e '.[web]', or all with make install"
