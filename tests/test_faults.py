"""Stages killed at random moments end as if nothing had happened: the short version of `make faults`."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults import Faults, tried
from utils.files import locked

NUM_ATTEMPTS = 7


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("attempt", range(NUM_ATTEMPTS))
def test_nothing_is_lost(faults: Faults, attempt: int) -> None:
    attempts = tried(faults, scale=1)
    assert len(attempts) == NUM_ATTEMPTS
    tally = attempts[attempt]()
    assert tally.tried > 0 and tally.lost == []


def test_a_folder_is_trained_in_once_at_a_time_and_free_after_a_crash(tmp_path: Path) -> None:
    lock = tmp_path / "expt" / ".lock"
    with locked(lock) as holder, locked(lock) as second:
        assert holder is None and str(os.getpid()) in str(second)
    child = os.fork()
    if not child:
        with locked(lock):
            signal.pause()
    while f"process {child} " not in lock.read_text():
        time.sleep(0.01)
    with locked(lock) as holder:
        assert f"process {child} " in str(holder)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(lock) as holder:
        assert holder is None
