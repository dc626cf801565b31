"""Stages killed at random moments end as if nothing had happened: the short version of `make faults`."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import bins.train
from tests.support.faults import TRAINING, Faults, Tally, can_mount, ended, in_child, tried
from tests.support.fuzz import fuzz_configs, fuzz_lists
from tests.support.hostile import GOOD, hostile_corpus
from tests.support.tiny_runs import sets
from utils.audio import read_audio
from utils.checkpoint import find_checkpoints, load_state
from utils.errors import UserError
from utils.files import file_lock

NUM_ATTEMPTS = 10


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("attempt", range(NUM_ATTEMPTS))
def test_nothing_is_lost(faults: Faults, attempt: int) -> None:
    attempts = tried(faults, scale=1)
    assert len(attempts) == NUM_ATTEMPTS
    tally = attempts[attempt]()
    assert tally.tried > 0 and tally.lost == []


def test_bad_files_texts_and_names_have_their_fate(tmp_path: Path) -> None:
    tally = hostile_corpus(tmp_path)
    assert tally.tried >= 60 and tally.lost == []


def test_a_full_and_a_read_only_disk_are_told_and_cost_nothing(faults: Faults) -> None:
    if not can_mount(faults.folder):
        pytest.skip("only root can make a disk that is full")
    tally = faults.fill_disk([1, 100_000])
    assert tally.tried == 3 and tally.lost == []


@pytest.mark.parametrize("everyone", [False, True])
def test_a_signal_to_any_process_stops_all_of_them_after_the_same_step(faults: Faults, everyone: bool) -> None:
    """`everyone` hears it, loader processes too, or one process of the training alone."""
    name = f"stopped_{everyone}"
    checkpoints = faults.folder / "ckpts" / name / "checkpoint"
    changes = {**TRAINING, "train.max_steps": 5000, "train.dataloader.num_worker": 1, "train.log_interval": 1000}
    flags = ["--config", str(faults.config), "--name", name, "--model_train_stage", "1", *sets(changes)]
    child = in_child(bins.train, flags, num_processes=2)
    while not find_checkpoints(checkpoints):
        time.sleep(0.01)
    (os.killpg if everyone else os.kill)(child, signal.SIGTERM)
    assert ended(child) == 128 + signal.SIGTERM
    last = find_checkpoints(checkpoints)[-1]
    state = load_state(last)
    assert 2 <= last.step == state["progress"]["step"] < 5000
    assert state["num_processes"] == len(state["ranks"]) == 2


@pytest.mark.parametrize("fuzz", [fuzz_configs, fuzz_lists])
def test_whatever_a_file_holds_is_read_or_told(fuzz: Callable[[int], Tally]) -> None:
    tally = fuzz(60)
    assert tally.tried >= 50 and tally.lost == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    """Root reads everything: a child that is someone else does not."""
    audio = tmp_path / "locked.wav"
    GOOD(audio)
    audio.chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder.is_relative_to(tempfile.gettempdir()):
            folder.chmod(folder.stat().st_mode | 0o755)
    child = os.fork()
    if not child:
        os.setuid(65534)
        try:
            read_audio(audio, 24000)
        except UserError as error:
            os._exit(0 if "locked.wav" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_folder_is_trained_in_once_at_a_time_and_free_after_a_crash(tmp_path: Path) -> None:
    lock = tmp_path / "expt" / ".lock"
    with file_lock(lock) as holder, file_lock(lock) as second:
        assert holder is None and str(os.getpid()) in str(second)
    child = os.fork()
    if not child:
        with file_lock(lock):
            signal.pause()
    while f"process {child} " not in lock.read_text():
        time.sleep(0.01)
    with file_lock(lock) as holder:
        assert f"process {child} " in str(holder)
    killer = threading.Timer(0.1, os.kill, (child, signal.SIGKILL))
    killer.start()
    # Waits until the child is killed.
    with file_lock(lock, waits=True) as holder:
        assert holder is None and os.waitpid(child, 0)[1] == signal.SIGKILL
    killer.join()
    with file_lock(lock) as holder:
        assert holder is None
