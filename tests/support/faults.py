"""Fault injection: stages killed at random moments and run again must end as if nothing had happened.

`python -m tests.support.faults` (make faults) is the long version, with a table of what was tried and what was lost.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import bins.inference
import bins.preprocess
import bins.train
from processors.manifest import SPLITS, list_shards, read_shards
from tests.conftest import free_port
from tests.support.tiny_runs import Program, call, infer, prepare, sets, train, write_config, write_custom
from utils.checkpoint import find_checkpoints, load_state, load_weights
from utils.cli import run

TRAINING: dict[str, Any] = {
    "train.max_steps": 12,
    "train.max_epoch": 1000,
    "train.save_checkpoint_steps": 2,
    "train.valid_interval": 4,
    "train.max_sentences": 2,
    "train.gradient_accumulation_step": 2,
    "train.join_probability": 0.5,
    "train.tracker": ["tensorboard"],
    "infer.max_seconds_per_phone": 0.04,
    "infer.slack_seconds": 0,
    "infer.max_tries": 1,
}


@dataclass
class Tally:
    """What was tried, how often, and what was lost."""

    job: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)


# Holds one log file for each child.
_LOGS = tempfile.TemporaryDirectory(prefix="vallet-faults-")


def _log_of(child: int) -> Path:
    return Path(_LOGS.name) / f"{child}.log"


def _by_itself(child: int, status: int) -> str:
    return f"ended with {status} by itself:\n{_log_of(child).read_text(errors='replace')[-2000:]}"


def in_child(program: Program, flags: Sequence[str], limit_bytes: int | None = None, num_processes: int = 1) -> int:
    """Start a program in a child of this process, which has imported everything already; returns its id.

    With several processes, the child starts them, as a launcher does, and ends with the first that fails.
    """
    port = free_port()
    child = os.fork()
    if child:
        return child
    try:
        # One that the parent may have held when it forked would never come free.
        tqdm.set_lock(threading.RLock())
        os.setsid()
        sink = os.open(_log_of(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(sink, stream)
        # Not those of whoever captures this process's.
        sys.stdout = sys.stderr = os.fdopen(sink, "w")
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        if num_processes > 1:
            _launch(num_processes, port)
        run(lambda _: call(program, *flags))
    except SystemExit as end:
        sys.stderr.flush()
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(99)  # Nothing of the parent's is the child's to end or remove.


def _launch(num_processes: int, port: int) -> None:
    """Return in each of so many forks of this process, which itself waits for them and ends as they do.

    It passes SIGTERM on to the last of them alone.
    """
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num_processes)}
    ranks = []
    for rank in range(num_processes):
        process = os.fork()
        if not process:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            return
        ranks.append(process)
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(ranks[-1], number))
    status = 0
    for _ in ranks:
        status = os.waitstatus_to_exitcode(os.wait()[1])
        if status:
            break
    for process in ranks if status else ():
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os._exit(abs(status))


def ended(child: int, patience_seconds: float = 120) -> int:
    """The exit status of a child; minus the signal where one ended it, as is done to one that hangs."""
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGALRM


def killed(child: int, seconds: float, undisturbed: int = 0) -> int:
    """Kill a child, and what it started, after so many seconds: 1, or 0 where it had ended, as it should, by then.

    `undisturbed` is the status that it ends with where nothing disturbs it.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            assert os.waitstatus_to_exitcode(status) == undisturbed, _by_itself(child, status)
            return 0
        time.sleep(0.002)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(child, signal.SIGKILL)  # It has no group of its own yet.
    status = ended(child)
    assert status in (undisturbed, -signal.SIGKILL), _by_itself(child, status)
    # On a busy machine, what the child started may hold its lock for a moment longer.
    while is_running(group=child):
        assert time.monotonic() < deadline + 60, f"group {child} survives SIGKILL"
        time.sleep(0.01)
    return int(status != undisturbed)


def is_running(group: int) -> bool:
    """Whether any process of a group runs still; a zombie, of which the status alone is left, does not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name, which stands in parentheses, may have any character.
            state, _, its_group, *_ = path.read_text().rpartition(")")[2].split()
            if int(its_group) == group and state not in "ZX":
                return True
    return False


class Faults:
    """A corpus, a config, what an undisturbed run of each stage makes of them, and disturbed runs beside it."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self.corpus = write_custom(folder / "corpus", 24)
        self.config = write_config(folder / "exp_config.json", self.corpus, folder)
        started = time.monotonic()
        prepare(self.config, {})
        self.features = features(folder / "data")
        self.seconds = {"features": time.monotonic() - started}
        lines = [f"find green apples|early birds|{path}" for path in sorted((self.corpus / "wavs").iterdir())[:6]]
        (folder / "list.txt").write_text("\n".join(lines))

    def kill_features(self, num_kills: int) -> Tally:
        """Stage 1, killed and run again, against what it makes undisturbed."""
        tally, turn = Tally("stage 1 killed and run again"), 0
        while tally.tried < num_kills:
            turn += 1
            place = self.folder / f"features_{turn}"
            flags = ["--config", str(self.config), *sets({"preprocess.processed_dir": str(place)})]
            for _ in range(min(4, num_kills - tally.tried)):
                tally.tried += killed(in_child(bins.preprocess, flags), self._moment("features"))
            if ended(in_child(bins.preprocess, flags)) != 0:
                tally.lost.append(f"{place}: did not end")
            elif features(place) != self.features:
                tally.lost.append(f"{place}: differs")
            elif leftovers := [path.name for path in (place / "custom").rglob(".*")]:
                tally.lost.append(f"{place}: leftovers {leftovers}")
            shutil.rmtree(place)
        return tally

    def kill_training(
        self, stage: int, num_kills: int, changes: dict[str, Any], label: str, num_processes: int = 1
    ) -> Tally:
        """Stage 2, killed and resumed until it ends, against an undisturbed run: weights and optimizer bit by bit."""
        start = partial(in_child, bins.train, num_processes=num_processes)
        tally, changes = Tally(f"stage 2, {label}, killed and resumed"), {**TRAINING, **changes}
        name, turn = f"{label.replace(' ', '_')}", 0
        own = ["--ar_model_ckpt_dir", str(self.folder / "ckpts" / "ar_whole")] if stage == 2 else []
        if stage == 2 and not (self.folder / "ckpts" / "ar_whole").exists():
            train(self.config, "ar_whole", 1, TRAINING)
        started = time.monotonic()
        if not (self.folder / "ckpts" / f"{name}_whole").exists():
            whole = self._training(self.folder / "ckpts" / f"{name}_whole", stage, changes, own)
            assert ended(start(whole)) == 0
        self.seconds[name] = time.monotonic() - started
        expected = trained(self.folder / "ckpts" / f"{name}_whole")
        while tally.tried < num_kills:
            turn += 1
            place = self.folder / "ckpts" / f"{name}_{turn}"
            for _ in range(min(3, num_kills - tally.tried)):
                flags = self._training(place, stage, changes, own)
                tally.tried += killed(start(flags), self._moment(name))
            is_over = (steps := [found.step for found in find_checkpoints(place / "checkpoint")]) and steps[-1] == 12
            if not is_over and (status := ended(start(self._training(place, stage, changes, own)))) != 0:
                tally.lost.append(f"{place}: ended with {status}")
            elif trained(place) != expected:
                tally.lost.append(f"{place}: differs")
            elif list((place / "checkpoint").glob(".*")) and not is_over:
                tally.lost.append(f"{place}: leftovers in checkpoint/")
            shutil.rmtree(place)
        return tally

    def kill_inference(self, num_kills: int) -> Tally:
        """Stage 3, killed and run again, against what it says undisturbed."""
        tally, turn = Tally("stage 3 killed and run again"), 0
        pair = self.folder / "ckpts" / "pair"
        if not pair.exists():
            train(self.config, "pair", 0, {})
        flags = ["--infer_mode", "batch", "--test_list_file", str(self.folder / "list.txt")]
        small = {"infer.max_batch_size": 2}
        started = time.monotonic()
        infer(pair, self.folder / "said", small, *flags)
        self.seconds["speech"] = time.monotonic() - started
        expected = said(self.folder / "said")
        status = int(any(how != "eos" for _, how, _ in expected))
        while tally.tried < num_kills:
            turn += 1
            place = self.folder / f"said_{turn}"
            own = ["--infer_expt_dir", str(pair), "--infer_output_dir", str(place), *flags, *sets(small)]
            for _ in range(min(3, num_kills - tally.tried)):
                tally.tried += killed(in_child(bins.inference, own), self._moment("speech"), status)
            if ended(in_child(bins.inference, own)) != status or said(place) != expected:
                tally.lost.append(f"{place}: differs")
            shutil.rmtree(place)
        return tally

    def limit_files(self, limits: Sequence[int]) -> Tally:
        """Training under a limit on the size of files."""
        tally = Tally("stage 2 with a limit on the size of files")
        for limit in limits:
            self._without_room(tally, self.folder / "ckpts" / f"limit_{limit}", nullcontext(), limit)
        return tally

    def fill_disk(self, rooms: Sequence[int]) -> Tally:
        """Training on a disk that has so many bytes left, and on one that is read-only. Only root can make one."""
        tally, disk = Tally("stage 2 on a full or read-only disk"), self.folder / "disk"
        with mounted(disk):
            for room in rooms:
                place = disk / f"room_{room}"
                self._without_room(tally, place, remounted(disk, lambda room=room: f"size={used(disk) + room}"))
                shutil.rmtree(place)
            self._without_room(tally, disk / "read_only", remounted(disk, lambda: "ro"))
        return tally

    def _without_room(
        self, tally: Tally, place: Path, trouble: AbstractContextManager[None], limit_bytes: int | None = None
    ) -> None:
        """Training in trouble tells of it in one line, and what was there is whole and goes on when it is over."""
        tally.tried += 1
        changes = {**TRAINING, "train.tracker": [], "log_dir": str(place.parent)}
        train(self.config, place.name, 1, {**changes, "train.max_steps": 2})
        before = trained(place)
        with trouble:
            child = in_child(bins.train, self._training(place, 1, changes, []), limit_bytes)
            status = ended(child)
        printed = _log_of(child).read_text()
        told = [line for line in printed.splitlines() if line.startswith("error: ")]
        if status != 1 or len(told) != 1 or "Traceback" in printed:
            tally.lost.append(f"{place}: status {status}, said {told}")
        if trained(place) != before or list((place / "checkpoint").glob(".*")):
            tally.lost.append(f"{place}: what was there is not as it was")
        if ended(in_child(bins.train, self._training(place, 1, changes, []))) != 0:
            tally.lost.append(f"{place}: could not go on")

    def _training(self, place: Path, stage: int, changes: dict[str, Any], own: Sequence[str]) -> list[str]:
        resume = ["--resume", "true"] if find_checkpoints(place / "checkpoint") else []
        stage_flags = ["--config", str(self.config), "--name", place.name, "--model_train_stage", str(stage)]
        return [*stage_flags, *own, *resume, *sets(changes)]

    def _moment(self, name: str) -> float:
        """Somewhere in the time that the whole takes, now and then after it."""
        return self.rng.uniform(0, 1.1 * self.seconds[name])


def can_mount(folder: Path) -> bool:
    """Whether this system lets us mount a disk."""
    try:
        with mounted(folder / "probe"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A disk of its own, in memory."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def remounted(folder: Path, option: Callable[[], str]) -> Iterator[None]:
    """That disk with another option for the block."""
    subprocess.run(["mount", "-o", f"remount,{option()}", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw,size=16m", str(folder)], check=True)


def used(disk: Path) -> int:
    """How many bytes a disk holds."""
    numbers = os.statvfs(disk)
    return (numbers.f_blocks - numbers.f_bfree) * numbers.f_frsize


def features(folder: Path) -> list[Any]:
    """What stage 1 wrote, but for reports: they tell nothing of the content."""
    seen: list[Any] = [
        (split, row.id, row.phones, row.text, row.speaker, row.codes.tobytes())
        for split in SPLITS
        for row in read_shards(list_shards(folder / "custom" / split))
    ]
    files = ("symbols.dict", "failures.jsonl", "stats.json", "splits.tsv")
    return seen + [(folder / "custom" / name).read_text() for name in files]


def trained(experiment: Path) -> tuple[int, dict[str, bytes], dict[str, bytes]]:
    """The newest checkpoint: its step, weights and moments."""
    last = find_checkpoints(experiment / "checkpoint")[-1]
    moments = load_state(last)["optimizer"]["state"]
    tensors = ((f"{index}.{name}", value) for index, state in moments.items() for name, value in state.items())
    weights = {name: value.numpy().tobytes() for name, value in load_weights(last).items()}
    return last.step, weights, {name: value.numpy().tobytes() for name, value in tensors}


def said(folder: Path) -> list[tuple[str, str, bytes]]:
    """What stage 3 wrote, but for times."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [(row["name"], row["ended"], (folder / row["audio"]).read_bytes()) for row in rows]


def tried(faults: Faults, scale: int) -> list[Callable[[], Tally]]:
    """Everything that is tried; `scale` 1 is the short version."""
    helpers = {"train.dataloader.num_worker": 1}
    return [
        lambda: faults.kill_features(4 * scale),
        lambda: faults.kill_training(1, 3 * scale, {}, "AR"),
        lambda: faults.kill_training(2, 3 * scale, {"model.prefix_mode": 2}, "NAR"),
        lambda: faults.kill_training(2, scale, {"model.prefix_mode": 4}, "NAR mode 4"),
        lambda: faults.kill_training(2, scale, {"model.prefix_mode": 1}, "NAR mode 1"),
        lambda: faults.kill_training(1, 2 * scale, helpers, "AR with a loader process"),
        lambda: faults.kill_training(1, scale, helpers, "AR on two processes", num_processes=2),
        lambda: faults.kill_training(2, scale, {}, "NAR on two processes", num_processes=2),
        lambda: faults.kill_inference(2 * scale),
        lambda: faults.limit_files([4096, 100_000, 200_000] if scale == 1 else range(4096, 300_001, 20_000)),
    ]


def main(scale: int) -> int:
    # They import this module for what they have in common with it.
    from tests.support.fuzz import fuzz_configs, fuzz_lists
    from tests.support.hostile import hostile_corpus

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        faults, tallies = Faults(Path(folder)), []
        inputs = [
            *([lambda: faults.fill_disk(range(1, 300_001, 20_000))] if can_mount(Path(folder)) else []),
            lambda: hostile_corpus(Path(folder) / "hostile"),
            lambda: fuzz_configs(20 * scale),
            lambda: fuzz_lists(20 * scale),
        ]
        for attempt in [*tried(faults, scale), *inputs]:
            tallies.append(attempt())
            last = tallies[-1]
            print(f"{last.job:55s} tried {last.tried:4d}   lost {len(last.lost):4d}", flush=True)
            for loss in last.lost:
                print(f"   {loss}")
    num_lost = sum(len(tally.lost) for tally in tallies)
    print(f"{'in all':55s} tried {sum(tally.tried for tally in tallies):4d}   lost {num_lost:4d}")
    return 1 if num_lost else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 14))
