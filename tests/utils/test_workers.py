"""A DataLoader worker that dies in any way is one error that says what to do."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from tests.conftest import ROOT
from tests.support.tiny_runs import write_config, write_custom
from utils.workers import WorkerDiedError, iterate


class Items(IterableDataset):
    """Yields tensors: without end, a fixed number, or until it raises an error."""

    def __init__(self, num: int = 10**9, error: Exception | None = None) -> None:
        self.num, self.error = num, error

    def __iter__(self) -> Iterator[torch.Tensor]:
        for index in range(self.num):
            yield torch.full((1000,), index)
        if self.error is not None:
            raise self.error


class Closing(IterableDataset):
    """Two tensors; before the second, the worker closes its pipes and sockets, and ends a moment later."""

    def __init__(self, closed: Path) -> None:
        self.closed = closed

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield torch.zeros(1000)
        time.sleep(0.3)  # By now the first tensor is in the queue, and waits for its memory to be fetched.
        os.closerange(3, 256)
        self.closed.touch()
        time.sleep(0.3)
        os._exit(1)


def test_a_worker_that_is_killed_at_any_moment_is_one_error() -> None:
    rng = random.Random(0)
    for attempt in range(4):
        items = iterate(DataLoader(Items(), batch_size=None, num_workers=1 + attempt % 2), "lower it")
        next(items)
        workers = multiprocessing.active_children()
        os.kill(rng.choice(workers).pid, rng.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGALRM]))
        time.sleep(rng.choice([0, 0, 0.001, 0.01]))
        with pytest.raises(WorkerDiedError, match=r"^a DataLoader worker died.*; lower it$"):
            while True:
                next(items)


def test_a_worker_whose_sockets_close_before_it_ends_is_the_same_error(tmp_path: Path) -> None:
    """The first exception is that of the socket."""
    items = iterate(DataLoader(Closing(tmp_path / "closed"), batch_size=None, num_workers=1), "lower it")
    waiting = iter(items)

    def first_error() -> BaseException | None:
        try:
            next(waiting)
            while not (tmp_path / "closed").exists():
                time.sleep(0.01)
            next(waiting)
        except WorkerDiedError as error:
            return error.__cause__
        return None

    assert first_error() is not None


def test_errors_and_ends_of_a_worker_are_unchanged() -> None:
    for error in (RuntimeError("DataLoader worker of a sort"), FileNotFoundError(2, "nowhere"), EOFError("cut off")):
        items = iterate(DataLoader(Items(2, error), batch_size=None, num_workers=1), "lower it")
        with pytest.raises(type(error), match="in DataLoader worker process"):
            list(items)
        with pytest.raises(type(error)):
            list(iterate(DataLoader(Items(2, error), batch_size=None), "lower it"))
    assert len(list(iterate(DataLoader(Items(3), batch_size=None, num_workers=2), "lower it"))) == 6


def test_a_worker_of_stage_1_that_is_killed_is_one_line(tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.json", write_custom(tmp_path / "corpus", 12), tmp_path)
    command = [sys.executable, "bins/preprocess.py", "--config", str(config), "--num_workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        while program.poll() is None:
            tree = psutil.Process(program.pid).children(recursive=True)
            # A worker is a child of the forkserver.
            if workers := [process for process in tree if process.ppid() != program.pid]:
                workers[0].kill()
                break
            time.sleep(0.01)
        _, stderr = program.communicate()
    finally:
        program.kill()
    assert program.returncode == 1 and "Traceback" not in stderr
    [line] = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert "a DataLoader worker died" in line and "preprocess.num_workers (1)" in line
