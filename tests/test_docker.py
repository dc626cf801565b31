"""The Dockerfile and compose.yaml. No image is built here: each step is checked against the repository.

The test marked `docker` installs what the image has.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

import bins.serve
from tests.conftest import ROOT
from web.api import SpeechApi, build_api

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def read_instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction of the Dockerfile."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")
    return [cast(Any, tuple(line.split(maxsplit=1))) for line in text.splitlines() if line.strip()]


INSTRUCTIONS = read_instructions()


def arguments(name: str) -> list[str]:
    return [given for found, given in INSTRUCTIONS if found == name]


def copied() -> list[str]:
    return [source.removeprefix("./") for given in arguments("COPY") for source in given.split()[:-1]]


def test_what_is_copied_exists_and_is_sent_to_the_builder() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in rules
    for source in copied():
        assert (ROOT / source).exists() and f"!{source}" in rules, source
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied())
    packages = {name.split(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert packages <= set(copied())
    # What the build of the package reads.
    assert {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml"} <= set(copied())


def test_what_is_installed_is_what_the_project_asks_for() -> None:
    commands = " ".join(arguments("RUN"))
    extras = [name for found in re.findall(r"\.\[([\w,]+)\]", commands) for name in found.split(",")]
    assert extras and set(extras) <= set(PROJECT["project"]["optional-dependencies"])
    pinned = set(re.findall(r"\w+==[\w.]+", commands))
    assert {"torch", "torchaudio"} == {one.split("==")[0] for one in pinned}
    assert pinned <= set(PROJECT["project"]["dependencies"])
    [python] = re.findall(r"^python:(\d+)\.(\d+)-slim", arguments("FROM")[0])
    assert (3, 10) <= tuple(map(int, python)) < (3, 14)


def test_the_program_starts_with_its_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    [entry], [command] = (list(map(json.loads, arguments(name))) for name in ("ENTRYPOINT", "CMD"))
    assert entry == ["python", "-m", "bins.serve"]
    monkeypatch.delenv(bins.serve.KEY_VARIABLE, raising=False)
    flags = bins.serve.parse(command, bins.serve.DESCRIPTION, "serve.py", 8000)
    assert flags.host == "0.0.0.0" and arguments("EXPOSE") == [str(flags.port)]
    # The models and the voices are in volumes.
    volumes = json.loads(arguments("VOLUME")[0])
    assert flags.log_dir in volumes and f"VALLET_VOICES={volumes[0]}" in arguments("ENV")


def test_the_user_is_not_root() -> None:
    commands = " ".join(arguments("RUN"))
    [number] = re.findall(r"useradd .*?--uid (\d+)", commands)
    assert arguments("USER") == [number] and int(number) > 0
    # Nothing is installed or copied as this user.
    after = INSTRUCTIONS[[name for name, _ in INSTRUCTIONS].index("USER") :]
    assert not {"RUN", "COPY"} & {name for name, _ in after}


def test_the_health_check_asks_the_api() -> None:
    [url] = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", arguments("HEALTHCHECK")[0])
    assert url[0] == arguments("EXPOSE")[0]
    app = build_api(SpeechApi(cast(Any, SimpleNamespace()), cast(Any, None), cast(Any, None)))
    assert url[1] in {getattr(route, "path", None) for route in app.routes}
    code = json.loads(arguments("HEALTHCHECK")[0].split("CMD", 1)[1])
    compile(code[2], "health check", "exec")


def test_the_api_needs_no_library_of_another_extra() -> None:
    """Importing all that it serves with, where the libraries that the image does not have cannot be imported."""
    extras = PROJECT["project"]["optional-dependencies"]
    absent = {
        re.split(r"[\[>=<]", name)[0].replace("-", "_") for extra in ("eval", "web", "dev") for name in extras[extra]
    }
    absent -= {"vallet", "fastapi", "uvicorn", "prometheus_client"}
    modules = "bins.serve, bins.voices, web.server, web.api, evaluation.candidates, synthesis.load, processors.codecs"
    code = f"import sys\nsys.modules.update(dict.fromkeys({sorted(absent)!r}))\nimport {modules}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "gradio" in absent, done.stderr


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_compose_uses_the_image_as_it_is(service: str) -> None:
    found = COMPOSE["services"][service]
    build_arguments = {given.split("=")[0] for given in arguments("ARG")}
    assert (ROOT / found["build"]["context"] / "Dockerfile").is_file()
    assert set(found["build"]["args"]) <= build_arguments
    targets = {volume.removesuffix(":ro").rsplit(":", 1)[1] for volume in found["volumes"]}
    assert set(json.loads(arguments("VOLUME")[0])) <= targets
    made = " ".join(arguments("RUN"))
    assert all(target in made for target in targets)
    for name in (volume.split(":")[0] for volume in found["volumes"] if volume[0].isalpha()):
        assert name in COMPOSE["volumes"]
    assert [port.rsplit(":", 1)[1] for port in found["ports"]] == arguments("EXPOSE")
    assert set(found["environment"]) == {bins.serve.KEY_VARIABLE}
    # The server gets the time that it gives its requests.
    flags = bins.serve.parse(["--api_key", "a"], bins.serve.DESCRIPTION, "serve.py", 8000)
    assert int(found["stop_grace_period"].removesuffix("s")) > flags.drain_seconds
    assert found.get("profiles", []) == (["gpu"] if service.endswith("gpu") else [])


@pytest.mark.docker
def test_what_is_installed_serves(tmp_path: Path) -> None:
    """The steps of the Dockerfile in a new environment, but for its user and folders, which need root."""
    app, environment = tmp_path / "app", dict(os.environ)
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        environment.pop(name, None)
    environment.update(given.split("=") for line in arguments("ENV") for given in line.split())
    environment.update(given.split("=") for given in arguments("ARG"))
    environment.update(VALLET_VOICES=str(tmp_path / "voices"), CUDA_VISIBLE_DEVICES="")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    environment["PATH"] = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{environment['PATH']}"
    app.mkdir()
    # In the order of the Dockerfile: what is installed first must not need what is copied later.
    for name, given in INSTRUCTIONS:
        if name == "COPY":
            *sources, target = given.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, app / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, app / target)
        elif name == "RUN" and not given.startswith("useradd"):
            done = subprocess.run(["sh", "-c", given], cwd=app, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{given}:\n{done.stderr}"

    [entry], [command] = (list(map(json.loads, arguments(name))) for name in ("ENTRYPOINT", "CMD"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    changes = {"8000": port, "/models": str(tmp_path), "0.0.0.0": "127.0.0.1"}
    started = [changes.get(given, given) for given in [*entry, *command]]
    check = [given.replace("8000", port) for given in json.loads(arguments("HEALTHCHECK")[0].split("CMD", 1)[1])]
    server = subprocess.Popen(started, cwd=app, env=environment)
    try:
        # The start period of the Dockerfile, and more for a busy machine.
        deadline = time.monotonic() + 600
        while server.poll() is None and time.monotonic() < deadline:
            if subprocess.run(check, env=environment, capture_output=True).returncode == 0:
                break
            time.sleep(1)
        else:
            pytest.fail("the server does not answer")
        server.send_signal(getattr(signal, arguments("STOPSIGNAL")[0]))
        assert server.wait(timeout=120) == 0
    finally:
        server.kill()
        server.wait()
