"""What trackers hold after a training, each read by the library that wrote it."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Points = dict[str, list[tuple[int, float]]]


@dataclass
class Tracked:
    """Of all runs that a tracker has of an experiment: steps and values by tag, steps with media by tag, settings."""

    runs: set[str] = field(default_factory=set)
    scalars: Points = field(default_factory=dict)
    media: dict[str, list[int]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


def tensorboard(experiment: Path) -> Tracked:
    seen = Tracked()
    for file in sorted(experiment.glob("log/events.*")):
        log = EventAccumulator(str(file), size_guidance={"audio": 0, "images": 0, "tensors": 0}).Reload()
        for tag in log.Tags()["scalars"]:
            seen.scalars.setdefault(tag, []).extend((event.step, event.value) for event in log.Scalars(tag))
        for tag in log.Tags()["audio"]:
            seen.media.setdefault(tag, []).extend(event.step for event in log.Audio(tag))
        for tag in log.Tags()["images"]:
            seen.media.setdefault(tag, []).extend(event.step for event in log.Images(tag))
        for tag in log.Tags()["tensors"]:
            name = tag.removesuffix("/text_summary")
            seen.media.setdefault(name, []).extend(event.step for event in log.Tensors(tag))
    return seen


def wandb(experiment: Path) -> Tracked:
    seen = Tracked()
    for path in sorted(experiment.glob("log/wandb/offline-run-*/*.wandb"), key=lambda file: file.parent.name):
        for record in _wandb_records(path):
            seen.runs |= {record.run.run_id} - {""}
            for update in (*record.run.config.update, *record.config.update):
                seen.config[update.key or update.nested_key[0]] = json.loads(update.value_json)
            # Of a sound or picture there are several entries, such as its size.
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for tag, value in row.items():
                if tag.startswith("sample/"):
                    seen.media.setdefault(tag, []).append(int(row["_step"]))
                elif not tag.startswith("_"):
                    seen.scalars.setdefault(tag, []).append((int(row["_step"]), value))
    return seen


def _wandb_records(path: Path, patience_seconds: float = 20) -> list[Any]:
    """All records, up to that of the end, which wandb's own process may write a moment after a run has ended."""
    from wandb.proto.wandb_internal_pb2 import Record

    until = time.monotonic() + patience_seconds
    while True:
        records = [Record.FromString(content) for content in _log_records(path.read_bytes())]
        if (records and records[-1].HasField("exit")) or time.monotonic() > until:
            return records
        time.sleep(0.05)


def _log_records(content: bytes) -> Iterator[bytes]:
    """Records of a file in LevelDB's log format, whose first block begins with a header of 7 bytes."""
    position, parts = 7, b""
    while position + 7 <= len(content):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # A whole record, or the last part of one.
            yield parts
            parts = b""


def trackio(experiment: Path) -> Tracked:
    from trackio.sqlite_storage import SQLiteStorage

    seen = Tracked()
    for run in SQLiteStorage.get_runs("vallet"):
        if run.rsplit("-", 1)[0] != experiment.name:
            continue
        seen.runs.add(run)
        seen.config = SQLiteStorage.get_run_config("vallet", run) or {}
        for row in SQLiteStorage.get_logs("vallet", run):
            for tag, value in row.items():
                if tag.startswith("sample/"):
                    seen.media.setdefault(tag, []).append(row["step"])
                elif tag.split("/")[0] in ("train", "valid"):
                    seen.scalars.setdefault(tag, []).append((row["step"], value))
    return seen


def mlflow(experiment: Path) -> Tracked:
    from mlflow import MlflowClient

    client, seen = MlflowClient(f"sqlite:///{experiment.parent / 'mlflow.db'}"), Tracked()
    for run in mlflow_runs(experiment):
        seen.runs.add(run.info.run_id)
        seen.config = run.data.params
        for tag in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, tag)
            seen.scalars.setdefault(tag, []).extend((point.step, point.value) for point in history)
        for folder in client.list_artifacts(run.info.run_id, "sample"):
            files = client.list_artifacts(run.info.run_id, folder.path)
            steps = [int(Path(file.path).stem.split("-")[1]) for file in files]
            seen.media.setdefault(folder.path, []).extend(steps)
    return seen


def mlflow_runs(experiment: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{experiment.parent / 'mlflow.db'}")
    [project] = client.search_experiments(filter_string="name = 'vallet'")
    return list(client.search_runs([project.experiment_id], f"attributes.run_name = '{experiment.name}'"))


READERS = {"tensorboard": tensorboard, "wandb": wandb, "trackio": trackio, "mlflow": mlflow}
