"""Where a training's numbers, pictures and sounds are logged: TensorBoard, Weights & Biases, trackio, MLflow."""

import json
import os
import queue
import re
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import soundfile
from accelerate import PartialState
from accelerate.tracking import (
    GeneralTracker,
    MLflowTracker,
    TensorBoardTracker,
    TrackioTracker,
    WandBTracker,
    get_available_trackers,
)
from torch import Tensor

from config.schema import Settings
from models.experiment import Experiment
from utils.errors import UserError, first_line
from utils.files import atomic_write, file_lock
from utils.log import log

PROJECT = "vallet"
"""The project, or MLflow's experiment, that has the runs."""
WAIT_SECONDS = 120
"""How long training waits at most for a tracker, when it starts and when it ends."""
# A step that is logged has at most about five entries, so at usual settings this is enough for hours without a server.
_MAX_WAITING = 10_000
# Other settings count tokens: a "token" is a secret at the end of a name alone.
_SECRET = re.compile(
    r"(^|[_-])((password|passwd|passphrase|secret|credentials?|(api|access|account|private)[_-]?key"
    r"|(api|auth|access|session)[_-]?token)($|[_-])|token$)",
    re.IGNORECASE,
)

Number = bool | int | float | str | None
Outcome = Literal["FINISHED", "KILLED", "FAILED"]
"""How a training ended, in MLflow's words; KILLED: by a signal."""


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError if the package of a tracker is not installed."""
    available = {str(tracker) for tracker in get_available_trackers()}
    if missing := [name for name in names if name not in available]:
        named = " and ".join(missing)
        raise UserError(
            f"train.tracker: {named} needs a package that is not installed: pip install 'vallet[trackers]', or leave "
            "it out"
        )


def build_trackers(settings: Settings, experiment: Experiment, continues: bool) -> list["SafeTracker"]:
    """The trackers that the settings name, not started yet.

    `continues`: training goes on where this experiment was logged last, so each tracker goes on with the same run.
    """
    folder = experiment.folder / "log"
    trackers = []
    for name in dict.fromkeys(settings.train.tracker):
        if name == "tensorboard":
            trackers.append(SafeTracker(_TensorBoard("log", experiment.folder)))
            continue
        record = RunRecord.load(folder / f"{name}.json") if continues else RunRecord(folder / f"{name}.json")
        if name == "wandb":
            record.run = record.run or uuid4().hex[:12]
            trackers.append(SafeTracker(_Wandb(experiment.folder, record.run), record))
        elif name == "trackio":
            # Experiments share the project, and trackio identifies a run by its name.
            record.run = record.run or f"{experiment.folder.name}-{uuid4().hex[:6]}"
            trackers.append(SafeTracker(_Trackio(PROJECT, name=record.run, resume="allow"), record))
        else:
            trackers.append(SafeTracker(_MLflow(experiment.folder, record), record))
    return trackers


def loggable(settings: Settings, **others: Number) -> dict[str, Number]:
    """The settings as `section.key: value`, and `others`, without passwords and keys that stand in URLs or names."""
    return dict(_flat(settings.model_dump(), "")) | others


def _flat(value: Any, key: str) -> list[tuple[str, Number]]:
    if isinstance(value, dict):
        return [
            pair
            for name, child in value.items()
            if not _SECRET.search(str(name))
            for pair in _flat(child, f"{key}.{name}" if key else str(name))
        ]
    if isinstance(value, (list, tuple)):
        return [(key, _without_credentials(json.dumps(list(value), ensure_ascii=False)))]
    return [(key, _without_credentials(value) if isinstance(value, str) else value)]


def _without_credentials(text: str) -> str:
    """Without a URL's user and password, which stand before its @, and without its query and `#key=value`.

    Errors also name the path of a URL alone, such as `/log?api_key=...`.
    """
    text = re.sub(r"(://[^\s\"?]*)\?[^\s\"]*", r"\1", re.sub(r"://[^\s\"]*@", "://", text))
    return re.sub(r"[?#][\w.-]+=[^\s\"]*", "", text)


@dataclass
class RunRecord:
    """The run that a tracker logs into, and the last step of each kind that it has, in a file.

    `run`: None until the tracker has named it.
    """

    path: Path
    run: str | None = None
    steps: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "RunRecord":
        """Without a file, or with a damaged one, a new run."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            steps = {str(kind): int(step) for kind, step in content["steps"].items()}
            return cls(path, None if content["run"] is None else str(content["run"]), steps)
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read (%s): a new run begins", path, first_line(error))
            return cls(path)

    def save(self) -> None:
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps({"run": self.run, "steps": self.steps}) + "\n", encoding="utf-8")

    def has(self, kind: str, step: int) -> bool:
        return step <= self.steps.get(kind, -1)

    def add(self, kind: str, step: int) -> None:
        self.steps[kind] = step
        self.save()


class SafeTracker(GeneralTracker):
    """One of accelerate's trackers, which neither stops nor delays the training; on the main process alone.

    Its first error is a warning, and then it logs no more. With a `record` it works in a thread of its own, in the
    order of the calls, and skips what its run has already. Without one, as TensorBoard, it works at once.
    """

    requires_logging_directory = False

    def __init__(self, inner: Any, record: RunRecord | None = None) -> None:
        self.name = inner.name
        super().__init__()
        self.inner, self.record = inner, record
        # After an error nothing more is logged, but the run is still to be ended.
        self.is_over = False
        # The run was ended, or the tracker does not answer.
        self.is_closed = False
        self._tasks: queue.Queue[tuple[Callable[[], None], threading.Event | None]] = queue.Queue(_MAX_WAITING)

    @property
    def tracker(self) -> Any:
        return self.inner.tracker

    def start(self) -> None:
        if not PartialState().is_main_process:
            self.is_over = self.is_closed = True
            return
        if self.record is not None:
            threading.Thread(target=self._work, name=f"tracker {self.name}", daemon=True).start()
        self._do(self._start, waits=True)

    def _start(self) -> None:
        # A training that ends before it logs, or before the tracker answers, must not leave an abandoned run here.
        if self.record is not None:
            self.record.save()
        self.inner.start()

    def store_init_configuration(self, values: dict[str, Number]) -> None:
        # TensorBoard would show the settings as one more run.
        if self.record is not None:
            self._do(partial(self.inner.store_init_configuration, values))

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        if values:
            self._log(next(iter(values)).split("/")[0], step or 0, partial(self.inner.log, values, step=step))

    def add_audio(self, tag: str, waveform: Tensor, step: int, sample_rate: int) -> None:
        """Log a (N,) waveform."""
        self._log(tag, step, partial(self.inner.add_audio, tag, waveform, step, sample_rate))

    def add_image(self, tag: str, picture: Tensor, step: int) -> None:
        """Log a (1, height, width) picture in [0, 1]."""
        self._log(tag, step, partial(self.inner.add_image, tag, picture, step))

    def add_text(self, tag: str, text: str, step: int) -> None:
        self._log(tag, step, partial(self.inner.add_text, tag, text, step))

    def finish(self, outcome: Outcome = "FINISHED") -> None:
        """Wait until all is logged, and end the run, also after an error; a second call does nothing."""
        if not self.is_closed:
            self._run(partial(self.inner.finish, outcome), waits=True)
            self.is_over = self.is_closed = True

    def _log(self, kind: str, step: int, action: Callable[[], None]) -> None:
        self._do(partial(self._log_new, kind, step, action))

    def _log_new(self, kind: str, step: int, action: Callable[[], None]) -> None:
        if self.record is None:
            action()
        elif not self.record.has(kind, step):
            action()
            self.record.add(kind, step)

    def _do(self, action: Callable[[], None], waits: bool = False) -> None:
        """Do this, or nothing after an error."""
        if not self.is_over:
            self._run(lambda: None if self.is_over else action(), waits)

    def _run(self, action: Callable[[], None], waits: bool) -> None:
        """Now, or in the thread after what waits there already."""
        if self.record is None:
            self._try(action)
            return
        done = threading.Event() if waits else None
        try:
            self._tasks.put_nowait((action, done))
        except queue.Full:
            self._fail(f"{_MAX_WAITING} entries wait for it", is_stuck=True)
            return
        if done is not None and not done.wait(WAIT_SECONDS):
            self._fail(f"no answer in {WAIT_SECONDS} s", is_stuck=True)

    def _work(self) -> None:
        while True:
            action, done = self._tasks.get()
            self._try(action)
            if done is not None:
                done.set()

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        # Some libraries exit where they cannot ask for a login.
        except (Exception, SystemExit) as error:
            self._fail(f"{type(error).__name__}: {first_line(error) if isinstance(error, Exception) else error}")

    def _fail(self, reason: str, is_stuck: bool = False) -> None:
        """Warn once and log nothing more. `is_stuck`: the tracker does not answer, so `finish` must not wait for it."""
        if not self.is_over:
            # A server's address may have a password.
            text = _without_credentials(reason)
            log.warning("train.tracker: %s failed, and training goes on without it: %s", self.name, text)
        self.is_over, self.is_closed = True, self.is_closed or is_stuck
        if is_stuck:
            # Frees what waits, such as sounds: the tracker's thread may never come to it.
            with suppress(queue.Empty):
                while True:
                    self._tasks.get_nowait()


class SampleWriter:
    """Writes samples to all trackers, by the names of a TensorBoard writer."""

    def __init__(self, trackers: Sequence[SafeTracker]) -> None:
        self.trackers = trackers

    def add_audio(self, tag: str, waveform: Tensor, step: int, sample_rate: int) -> None:
        for tracker in self.trackers:
            tracker.add_audio(tag, waveform, step, sample_rate)

    def add_image(self, tag: str, picture: Tensor, step: int) -> None:
        for tracker in self.trackers:
            tracker.add_image(tag, picture, step)

    def add_text(self, tag: str, text: str, step: int) -> None:
        for tracker in self.trackers:
            tracker.add_text(tag, text, step)


class _TensorBoard(TensorBoardTracker):
    def add_audio(self, tag: str, waveform: Tensor, step: int, sample_rate: int) -> None:
        self.writer.add_audio(tag, waveform, step, sample_rate=sample_rate)

    def add_image(self, tag: str, picture: Tensor, step: int) -> None:
        self.writer.add_image(tag, picture, step)

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.writer.add_text(tag, text, step)

    def finish(self, outcome: Outcome = "FINISHED") -> None:
        super().finish()


class _Wandb(WandBTracker):
    """Weights & Biases; its own files are in the experiment's log folder."""

    def __init__(self, folder: Path, run: str) -> None:
        super().__init__(os.environ.get("WANDB_PROJECT", PROJECT))
        self.folder, self.run_id = folder, run

    def start(self) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        # Nobody may be there to answer its question.
        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("there is no API key; run wandb login, or set WANDB_MODE=offline")
        (self.folder / "log").mkdir(parents=True, exist_ok=True)
        self.init_kwargs = {
            "id": self.run_id,
            "name": self.folder.name,
            "resume": "allow",
            "dir": str(self.folder / "log"),
            # The command line may hold credentials, and the clone's changes and the machine's name are private.
            "settings": wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,
                host="",
                # wandb waits some seconds longer than this, and training stops waiting for it after WAIT_SECONDS.
                init_timeout=WAIT_SECONDS / 2,
                finish_timeout=WAIT_SECONDS * 0.75,
            ),
        }
        super().start()

    def add_audio(self, tag: str, waveform: Tensor, step: int, sample_rate: int) -> None:
        import wandb

        self.run.log({tag: wandb.Audio(_samples(waveform), sample_rate=sample_rate)}, step=step)

    def add_image(self, tag: str, picture: Tensor, step: int) -> None:
        import wandb

        self.run.log({tag: wandb.Image(_pixels(picture))}, step=step)

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.run.log({tag: text}, step=step)

    def finish(self, outcome: Outcome = "FINISHED") -> None:
        # It has no status for a training that was stopped after a checkpoint, which did not fail.
        self.run.finish(exit_code=int(outcome == "FAILED"))


class _Trackio(TrackioTracker):
    def store_init_configuration(self, values: dict[str, Number]) -> None:
        self.run.config.update(values)

    def add_audio(self, tag: str, waveform: Tensor, step: int, sample_rate: int) -> None:
        import trackio

        levels = (_samples(waveform) * 32767).round().astype(np.int16)
        self.run.log({tag: trackio.Audio(levels, sample_rate=sample_rate, format="wav")}, step=step)

    def add_image(self, tag: str, picture: Tensor, step: int) -> None:
        import trackio

        self.run.log({tag: trackio.Image(_pixels(picture))}, step=step)

    def add_text(self, tag: str, text: str, step: int) -> None:
        import trackio

        self.run.log({tag: trackio.Markdown(text)}, step=step)

    def finish(self, outcome: Outcome = "FINISHED") -> None:
        # Its runs have no status.
        super().finish()


class _MLflow(MLflowTracker):
    """Without MLFLOW_TRACKING_URI, a SQLite database beside the experiments."""

    def __init__(self, folder: Path, record: RunRecord) -> None:
        self.folder, self.record = folder, record
        self.is_new = record.run is None
        super().__init__(experiment_name=PROJECT, run_name=folder.name, run_id=record.run)
        # Otherwise these are the user's account and the path of the program.
        self.tags: dict[str, Any] = {"mlflow.user": PROJECT, "mlflow.source.name": PROJECT, **(self.tags or {})}

    def start(self) -> None:
        # A server that does not answer must not be waited for at every entry.
        defaults = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
        for name, value in (*defaults.items(), ("MLFLOW_DISABLE_TELEMETRY", "true")):
            os.environ.setdefault(name, value)
        import mlflow

        lock: AbstractContextManager[Any] = nullcontext()
        if "MLFLOW_TRACKING_URI" not in os.environ:
            log_dir = self.folder.parent.resolve()
            # Two trainings that create the database or its experiment at the same time fail.
            lock = file_lock(log_dir / ".mlflow.lock", waits=True)
            mlflow.set_tracking_uri(f"sqlite:///{log_dir / 'mlflow.db'}")
            self.logging_dir = (log_dir / "mlartifacts").as_uri()
        with lock:
            super().start()
        self.record.run = self.active_run.info.run_id
        self.record.save()

    def store_init_configuration(self, values: dict[str, Number]) -> None:
        import mlflow

        # Parameters of a run cannot change, but a resumed training may have other settings.
        if self.is_new:
            super().store_init_configuration(values)
        mlflow.log_dict(values, "settings.json")

    def add_audio(self, tag: str, waveform: Tensor, step: int, sample_rate: int) -> None:
        import mlflow

        with tempfile.TemporaryDirectory(prefix="vallet-") as folder:
            path = Path(folder) / f"step-{step:07d}.wav"
            soundfile.write(path, _samples(waveform), sample_rate)
            mlflow.log_artifact(str(path), tag)

    def add_image(self, tag: str, picture: Tensor, step: int) -> None:
        import mlflow

        mlflow.log_image(_pixels(picture), f"{tag}/step-{step:07d}.png")

    def add_text(self, tag: str, text: str, step: int) -> None:
        import mlflow

        mlflow.log_text(text, f"{tag}/step-{step:07d}.txt")

    def finish(self, outcome: Outcome = "FINISHED") -> None:
        import mlflow

        mlflow.end_run(outcome)


def _samples(waveform: Tensor) -> np.ndarray:
    return waveform.detach().float().cpu().clamp(-1, 1).numpy()


def _pixels(picture: Tensor) -> np.ndarray:
    """(1, height, width) in [0, 1] as (height, width, 3) bytes."""
    levels = (picture.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    return levels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
