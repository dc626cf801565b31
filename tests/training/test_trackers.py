"""Trackers hold what TensorBoard holds, a resumed run goes on in them, and none of them can stop the training."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate.tracking
import pytest
import torch

from config.schema import Settings
from tests.conftest import ROOT, Messages
from tests.support.tiny_runs import prepare, sets, train, write_config, write_custom
from tests.support.tracked import READERS, Points, Tracked, mlflow_runs
from training import trackers
from training.trackers import RunRecord, SafeTracker, SampleWriter, loggable
from training.trainer import Trainer
from utils.checkpoint import find_checkpoints, load_weights
from utils.config import load_settings
from utils.errors import UserError
from utils.files import file_lock

OTHERS = ("wandb", "trackio", "mlflow")
SAMPLES = {"sample/speech", "sample/spectrogram", "sample/text", "sample/attention"}
STEPS = {"train.valid_interval": 2, "train.save_checkpoint_steps": 2, "train.keep_last_steps": 9}


@dataclass(frozen=True)
class World:
    """A prepared corpus; experiments are in `folder`."""

    config: Path
    folder: Path

    def train(self, name: str, num_steps: int, tracker: Any, *flags: str, status: int = 0, **changes: Any) -> Path:
        """Train up to a step, to this exit status; returns the experiment's folder."""
        changes = {**STEPS, "train.max_steps": num_steps, "train.tracker": tracker, **changes}
        train(self.config, name, 1, changes, *flags, status=status)
        return self.folder / name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Nothing here uses the network, or writes into the home folder."""
    folder = tmp_path_factory.mktemp("trackers")
    environment = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(folder / "trackio")}
    with pytest.MonkeyPatch.context() as monkeypatch:
        # MLflow sets its own, which is gone at the end as well.
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
        for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_", "MLFLOW_"))]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        config = write_config(folder / "exp_config.json", write_custom(folder / "corpus", 14), folder)
        prepare(config, {})
        yield World(config, folder / "ckpts")


@pytest.fixture(scope="module")
def uninterrupted(world: World) -> Tracked:
    """What TensorBoard holds after six steps at a stretch."""
    return READERS["tensorboard"](world.train("uninterrupted", 6, "tensorboard"))


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Messages:
    kept = Messages()
    monkeypatch.setattr(trackers.log, "handlers", [kept])
    return kept


def untimed(scalars: Points) -> Points:
    return {tag: points for tag, points in scalars.items() if not tag.endswith("tokens_per_second")}


def same(found: Points, expected: Points) -> bool:
    """TensorBoard stores single precision. Each point is there once, in order."""
    return found.keys() == expected.keys() and all(
        [step for step, _ in points] == [step for step, _ in expected[tag]]
        and [value for _, value in points] == pytest.approx([value for _, value in expected[tag]], rel=1e-6)
        for tag, points in found.items()
    )


@pytest.mark.parametrize("name", OTHERS)
def test_a_tracker_holds_what_tensorboard_holds_and_a_resumed_run_goes_on_in_it(
    name: str, world: World, uninterrupted: Tracked
) -> None:
    """After a regular end, and after a crash that was logged further than the last checkpoint."""
    pytest.importorskip(name)
    world.train(name, 3, ["tensorboard", name])
    folder = world.train(name, 5, ["tensorboard", name], "--resume", "true")
    for lost in find_checkpoints(folder / "checkpoint")[-2:]:
        shutil.rmtree(lost.path)
    assert find_checkpoints(folder / "checkpoint")[-1].step == 3
    world.train(name, 6, ["tensorboard", name], "--resume", "true")

    seen = READERS[name](folder)
    assert len(seen.runs) == 1
    assert [step for step, _ in seen.scalars["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in seen.scalars["valid/loss"]] == [2, 4, 6]
    assert same(untimed(seen.scalars), untimed(uninterrupted.scalars))
    assert "train/tokens_per_second" in seen.scalars
    assert seen.media.keys() == uninterrupted.media.keys() == SAMPLES
    assert all(steps == [2, 4, 6] for steps in (*seen.media.values(), *uninterrupted.media.values()))
    assert str(seen.config["train.base_lr"]) == "0.01" and seen.config["model_type"] == "VALLE"
    # TensorBoard repeats the steps after the checkpoint, as it always has.
    assert len(READERS["tensorboard"](folder).scalars["train/loss"]) == 8


def test_tensorboard_is_as_without_other_trackers(world: World, uninterrupted: Tracked) -> None:
    names = [name for name in OTHERS if name in map(str, accelerate.tracking.get_available_trackers())]
    if not names:
        pytest.skip("no other tracker is installed")
    folder = world.train("beside", 6, ["tensorboard", *names])
    seen = READERS["tensorboard"](folder)
    assert untimed(seen.scalars) == untimed(uninterrupted.scalars) and seen.media == uninterrupted.media
    [alone] = (world.folder / "uninterrupted" / "log").iterdir()
    assert alone.name.startswith("events.")


@pytest.mark.parametrize("name", OTHERS)
def test_a_training_that_starts_again_is_another_run(name: str, world: World) -> None:
    """Also one that goes back to an earlier checkpoint: its steps are no longer those that were logged."""
    pytest.importorskip(name)
    folder = world.train(f"back_{name}", 4, name)
    first = find_checkpoints(folder / "checkpoint")[0]
    assert first.step == 2
    world.train(f"back_{name}", 3, name, "--resume", "true", "--resume_from_ckpt_path", str(first.path))
    seen = READERS[name](folder)
    assert len(seen.runs) == 2
    assert sorted(step for step, _ in seen.scalars["train/loss"]) == [1, 2, 3, 3, 4]


@pytest.mark.parametrize("name", OTHERS)
def test_a_training_that_starts_again_is_another_run_though_it_ends_before_it_logs(name: str, world: World) -> None:
    pytest.importorskip(name)
    folder = world.train(f"unlogged_{name}", 4, name)
    first = find_checkpoints(folder / "checkpoint")[0]
    back = ("--resume", "true", "--resume_from_ckpt_path", str(first.path))
    world.train(f"unlogged_{name}", 3, name, *back, **{"train.log_interval": 20, "train.valid_interval": 20})
    world.train(f"unlogged_{name}", 5, name, "--resume", "true")
    seen = READERS[name](folder)
    assert len(seen.runs) == 2
    assert sorted(step for step, _ in seen.scalars["train/loss"]) == [1, 2, 3, 4, 4, 5]


def test_a_training_that_starts_again_forgets_the_run_though_the_tracker_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    RunRecord(path, "abandoned").add("train", 4)
    SafeTracker(Inner("start"), RunRecord(path)).start()
    assert RunRecord.load(path) == RunRecord(path)


def test_mlflow_shows_how_a_training_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    outcomes = {"finished": None, "stopped": lambda _: os.kill(os.getpid(), signal.SIGTERM), "crashed": lambda _: 1 / 0}
    for name, happens in outcomes.items():
        if happens is not None:
            monkeypatch.setattr(Trainer, "validate", happens)
        with pytest.raises(ZeroDivisionError) if name == "crashed" else nullcontext():
            world.train(name, 6, "mlflow", status=143 if name == "stopped" else 0)
    assert find_checkpoints(world.folder / "stopped" / "checkpoint")[-1].step == 3
    found = {name: mlflow_runs(world.folder / name)[0].info.status for name in outcomes}
    assert found == {"finished": "FINISHED", "stopped": "KILLED", "crashed": "FAILED"}


@pytest.mark.parametrize(("outcome", "exit_code"), [("FINISHED", 0), ("KILLED", 0), ("FAILED", 1)])
def test_wandb_is_told_whether_a_training_failed(outcome: Any, exit_code: int, tmp_path: Path) -> None:
    given: list[int] = []
    tracker = trackers._Wandb(tmp_path, "abc")
    tracker.run = SimpleNamespace(finish=lambda exit_code: given.append(exit_code))
    tracker.finish(outcome)
    assert given == [exit_code]


def test_one_training_at_a_time_creates_the_database_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once both create its tables, or its experiment, and one of them fails."""
    mlflow = pytest.importorskip("mlflow")
    holders = []

    def start(self: Any) -> None:
        with file_lock(tmp_path / ".mlflow.lock") as holder:
            holders.append(holder)
        raise ConnectionError("enough")

    monkeypatch.setattr(accelerate.tracking.MLflowTracker, "start", start)
    monkeypatch.setattr(mlflow, "set_tracking_uri", lambda uri: None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConnectionError):
        trackers._MLflow(tmp_path / "run", RunRecord(tmp_path / "run.json")).start()
    assert holders == [f"process {os.getpid()} on {socket.gethostname()}"]
    # Released also after an error.
    with file_lock(tmp_path / ".mlflow.lock") as holder:
        assert holder is None


def test_credentials_are_not_logged(world: World) -> None:
    given = ["dataset_path.custom=https://me:pass/wo@rd@host/corpus?sig=abc123", 'recordings.languages=["en"]']
    settings = load_settings(world.config, Settings, given, root=ROOT)
    flat = loggable(settings, train_stage=1)
    assert flat["dataset_path.custom"] == "https://host/corpus" and flat["train_stage"] == 1
    assert flat["recordings.languages"] == '["en"]' and flat["train.base_lr"] == 1e-2
    assert all(isinstance(value, (bool, int, float, str, type(None))) for value in flat.values())
    nested = SimpleNamespace(model_dump=lambda: {"a": {"api_key": "x", "audio_token_num": 1, "hub_auth_token": "y"}})
    assert loggable(nested) == {"a.audio_token_num": 1}  # type: ignore[arg-type]
    for key in ("token", "hf_token", "api_token", "apikey", "private_key", "session_token", "credentials"):
        kept = {"max_tokens": 1, "text_token_num": 2, "key_frames": 3}
        secret = SimpleNamespace(model_dump=lambda key=key, kept=kept: {key: "x", **kept})
        assert loggable(secret) == kept, key  # type: ignore[arg-type]
    listed = SimpleNamespace(model_dump=lambda: {"urls": ["s3://key:secret@b/x", "http://h/y?token=1"]})
    assert loggable(listed) == {"urls": '["s3://b/x", "http://h/y"]'}  # type: ignore[arg-type]
    error = "Max retries exceeded with url: /log?api_key=abc (at https://h/x#token=abc). Why? See #1"
    wanted = "Max retries exceeded with url: /log (at https://h/x Why? See #1"
    assert loggable(SimpleNamespace(model_dump=lambda: {"a": error})) == {"a": wanted}  # type: ignore[arg-type]


def test_all_other_settings_are_logged(world: World) -> None:
    settings = load_settings(world.config, Settings, [], root=ROOT)

    def flat(values: dict[str, Any], key: str = "") -> dict[str, Any]:
        parts = [flat(v, f"{key}{k}.") if isinstance(v, dict) else {key + k: v} for k, v in values.items()]
        return {name: value for part in parts for name, value in part.items()}

    expected = flat(settings.model_dump())
    listed = {
        name: json.dumps(list(v), ensure_ascii=False) for name, v in expected.items() if isinstance(v, list | tuple)
    }
    assert loggable(settings) == expected | listed


def test_the_command_line_and_the_names_of_machine_and_account_are_not_logged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command line may hold a URL with a password."""
    names = [name for name in OTHERS if name in map(str, accelerate.tracking.get_available_trackers())]
    if not names:
        pytest.skip("no other tracker is installed")
    program = "/home/hunter2/bins/train.py"
    monkeypatch.setattr(sys, "argv", [program, "--set", "preprocess.processed_dir=http://me:hunter2@host"])
    monkeypatch.setattr(socket, "gethostname", lambda: "hunter2-machine")
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "hunter2")
    folder = world.train("secret", 1, names)
    places = (*folder.glob("log/**/*"), *folder.parent.glob("mlflow.db*"), *folder.parents[1].glob("trackio/**/*"))
    written = [path for path in places if path.is_file()]
    assert any(path.suffix == ".wandb" for path in written) or "wandb" not in names
    assert not any(b"hunter2" in path.read_bytes() for path in written)


@pytest.mark.parametrize("name", OTHERS)
def test_a_package_that_is_missing_is_one_line_before_anything_is_written(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [tracker for tracker in accelerate.tracking._available_trackers if str(tracker) != name]
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", there)
    with pytest.raises(UserError) as caught:
        world.train(f"missing_{name}", 1, ["tensorboard", name])
    assert str(caught.value) == (
        f"train.tracker: {name} needs a package that is not installed: pip install 'vallet[trackers]', or leave it out"
    )
    assert not (world.folder / f"missing_{name}").exists()


def test_an_unknown_name_is_one_line_and_an_exit_status(world: World) -> None:
    flags = ("--config", str(world.config), "--name", "unknown", "--model_train_stage", "1")
    command = [sys.executable, "-m", "bins.train", *flags, "--set", "train.tracker=aim"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and not (world.folder / "unknown").exists()
    [line] = done.stderr.splitlines()
    assert line.startswith("error: --set: train.tracker")
    assert all(name in line for name in ('"aim"', "tensorboard", *OTHERS))


@pytest.mark.parametrize("given", ["mlflow", ["mlflow"], ["tensorboard", "wandb"], []])
def test_one_name_and_a_list_are_read(given: Any, world: World) -> None:
    [_, text] = sets({"train.tracker": given})
    settings = load_settings(world.config, Settings, [text], root=ROOT)
    assert settings.train.tracker == ([given] if isinstance(given, str) else given)


class Inner:
    """Keeps what it is given, in place of one of accelerate's trackers; fails at the calls named in `fails`."""

    name = "mlflow"

    def __init__(self, *fails: str) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        def called(*values: Any, **others: Any) -> None:
            self.calls.append((name, *values, *others.values()))
            if name in self.fails:
                raise ConnectionError("no route to http://me:pass@host\nnow")

        return called

    def named(self) -> list[str]:
        return [name for name, *_ in self.calls]


@pytest.mark.parametrize("threaded", [True, False])
@pytest.mark.parametrize("fails", ["start", "store_init_configuration", "log", "add_audio", "finish"])
def test_an_error_is_one_warning_and_ends_the_tracker_alone(
    fails: str, threaded: bool, tmp_path: Path, messages: Messages
) -> None:
    inner = Inner(fails)
    tracker = SafeTracker(inner, RunRecord(tmp_path / "run.json") if threaded else None)
    tracker.start()
    tracker.store_init_configuration({"a": 1})
    for step in (1, 2):
        tracker.log({"train/loss": 1.0}, step=step)
        tracker.add_audio("sample/speech", torch.zeros(9), step, 8000)
    tracker.finish()
    if not threaded and fails == "store_init_configuration":
        # TensorBoard does not get the settings.
        assert messages.texts == [] and fails not in inner.named()
        return
    assert messages.texts == [
        "train.tracker: mlflow failed, and training goes on without it: ConnectionError: no route to http://host"
    ]
    # The run is ended all the same, so that what it has is kept.
    named = inner.named()
    assert named.count(fails) == 1 and named[-1] == "finish" and (fails == "finish" or named[-2] == fails)


def test_a_training_ends_while_its_tracker_still_hangs(
    world: World, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    gate, answers = threading.Event(), []

    def hangs(*_: Any, **__: Any) -> None:
        # A training that waits for it fails the test, and does not hang.
        gate.wait(60)
        answers.append("too late")

    # Only the end of the training waits: the checkpoint is there before anybody gives up.
    steps, fail = [], SafeTracker._fail

    def noted(self: SafeTracker, *given: Any, **others: Any) -> None:
        steps.extend(checkpoint.step for checkpoint in find_checkpoints(world.folder / "hanging" / "checkpoint"))
        fail(self, *given, **others)

    inner = Inner()
    inner.log = hangs  # type: ignore[attr-defined]
    monkeypatch.setattr(SafeTracker, "_fail", noted)
    monkeypatch.setattr(trackers, "_MLflow", lambda folder, record: inner)
    monkeypatch.setattr(trackers, "WAIT_SECONDS", 2)
    world.train("hanging", 2, "mlflow")
    assert answers == [] and steps == [2]
    gate.set()
    assert capfd.readouterr().err.count("mlflow failed, and training goes on without it: no answer in 2 s") == 1


def test_a_tracker_that_hangs_keeps_nothing_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "WAIT_SECONDS", 1)
    inner, gate = Inner(), threading.Event()
    inner.log = lambda *_, **__: gate.wait()  # type: ignore[attr-defined]
    tracker = SafeTracker(inner, RunRecord(tmp_path / "run.json"))
    tracker.start()
    tracker.log({"train/loss": 1.0}, step=1)
    waveform = torch.zeros(9)
    kept = weakref.ref(waveform)
    tracker.add_audio("sample/speech", waveform, 1, 8000)
    del waveform
    assert kept() is not None
    tracker.finish()
    assert kept() is None
    gate.set()


def test_entries_that_wait_are_bounded(tmp_path: Path, messages: Messages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "_MAX_WAITING", 3)
    inner, gate = Inner(), threading.Event()
    inner.log = lambda *_, **__: gate.wait()  # type: ignore[attr-defined]
    tracker = SafeTracker(inner, RunRecord(tmp_path / "run.json"))
    tracker.start()
    for step in range(1, 9):
        tracker.log({"train/loss": 1.0}, step=step)
    gate.set()
    assert messages.texts == ["train.tracker: mlflow failed, and training goes on without it: 3 entries wait for it"]


def test_other_ranks_log_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "PartialState", lambda: SimpleNamespace(is_main_process=False))
    for record in (None, RunRecord(tmp_path / "run.json")):
        inner = Inner()
        tracker = SafeTracker(inner, record)
        tracker.start()
        tracker.store_init_configuration({"a": 1})
        tracker.log({"train/loss": 1.0}, step=1)
        SampleWriter([tracker]).add_text("sample/text", "hello", 1)
        tracker.finish()
        assert inner.calls == []
    assert list(tmp_path.iterdir()) == []


def test_a_record_is_read_back_and_a_damaged_one_begins_a_new_run(tmp_path: Path, messages: Messages) -> None:
    path = tmp_path / "log" / "wandb.json"
    assert RunRecord.load(path) == RunRecord(path)
    record = RunRecord(path, "abc")
    record.add("train", 7)
    assert RunRecord.load(path) == RunRecord(path, "abc", {"train": 7})
    assert RunRecord.load(path).has("train", 7) and not RunRecord.load(path).has("valid", 1)
    for content in ("{", "[]", '{"run": "a", "steps": 3}', json.dumps({"run": "a"})):
        path.write_text(content)
        assert RunRecord.load(path) == RunRecord(path)
    assert len(messages.texts) == 4


@pytest.mark.parametrize("name", OTHERS)
def test_a_tracker_that_fails_in_mid_training_changes_no_weight(
    name: str, world: World, uninterrupted: Tracked, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(name)
    kind = {"wandb": trackers._Wandb, "trackio": trackers._Trackio, "mlflow": trackers._MLflow}[name]
    log_values = kind.log

    def failing(self: Any, values: dict[str, float], step: int | None = None, **others: Any) -> None:
        if step == 3:
            raise ConnectionError("the server is down")
        log_values(self, values, step=step, **others)

    monkeypatch.setattr(kind, "log", failing)
    folder = world.train(f"failing_{name}", 6, ["tensorboard", name])
    said = capfd.readouterr().err
    assert said.count(f"train.tracker: {name} failed") == said.count("the server is down") == 1
    assert [step for step, _ in READERS["tensorboard"](folder).scalars["train/loss"]] == [1, 2, 3, 4, 5, 6]
    expected, found = (
        load_weights(find_checkpoints(world.folder / one / "checkpoint")[-1])
        for one in ("uninterrupted", f"failing_{name}")
    )
    assert all(found[key].equal(value) for key, value in expected.items())

    # The next run goes on after the last step that was logged.
    monkeypatch.undo()
    monkeypatch.setenv("WANDB_MODE", "offline")
    world.train(f"failing_{name}", 8, ["tensorboard", name], "--resume", "true")
    seen = READERS[name](folder)
    assert len(seen.runs) == 1 and [step for step, _ in seen.scalars["train/loss"]] == [1, 2, 7, 8]


def test_a_server_that_is_not_there_does_not_stop_training(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        folder = world.train("no_server", 2, "mlflow")
    finally:
        mlflow.set_tracking_uri(before)
    assert capfd.readouterr().err.count("train.tracker: mlflow failed, and training goes on without it") == 1
    assert find_checkpoints(folder / "checkpoint")[-1].step == 2


def test_wandb_without_a_login_asks_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr(wandb, "setup", lambda: SimpleNamespace(settings=SimpleNamespace(mode="online")))
    monkeypatch.setattr(wandb, "login", lambda **given: given["prompt"])
    folder = world.train("no_login", 2, "wandb")
    assert "wandb failed, and training goes on without it: RuntimeError: there is no API key" in capfd.readouterr().err
    assert find_checkpoints(folder / "checkpoint")[-1].step == 2


def test_the_program_with_a_missing_package_ends_with_status_1_and_one_line(world: World) -> None:
    flags = ("--config", str(world.config), "--name", "bare", "--model_train_stage", "1")
    program = "import accelerate.tracking as t; t._available_trackers.clear(); import bins.train as p; "
    program += "from utils.cli import run; run(p.main)"
    command = [sys.executable, "-c", program, *flags, "--set", "train.tracker=mlflow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: train.tracker: mlflow needs") and not (world.folder / "bare").exists()
