"""DataLoader workers: their signal handlers, and a clear error when one dies."""

import signal
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from utils.errors import UserError

Item = TypeVar("Item")
# How long a worker lives on after SIGTERM.
_GRACE_SECONDS = 20
# How long to wait for the exit status of a worker that was killed.
_PATIENCE_SECONDS = 5


class WorkerDiedError(UserError):
    """A DataLoader worker ended before its work was done."""


def iterate(loader: DataLoader[Any], advice: str) -> Iterator[Any]:
    """The items of a loader. Raises WorkerDiedError with the advice if a worker dies.

    A dead worker surfaces as whatever fails first: torch's RuntimeError, or an error of the pipe or socket that a
    tensor comes through, such as ConnectionResetError, EOFError or FileNotFoundError. So after any error the exit
    status of the workers is checked.
    """
    if not loader.num_workers:
        yield from loader
        return
    try:
        items = iter(loader)
    except (ConnectionError, EOFError) as error:
        # The forkserver, which starts the workers, is gone.
        raise WorkerDiedError(f"a DataLoader worker died; {advice}") from error
    _ignore_sigchld()
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except Exception as error:
            # Torch marks an exception that was raised inside a worker.
            if str(error).startswith("Caught ") or not ("exited unexpectedly" in str(error) or _has_died(items)):
                raise
            raise WorkerDiedError(f"a DataLoader worker died, perhaps out of memory; {advice}") from error
        yield item


def _has_died(items: Any) -> bool:
    """Whether a worker exited with an error or was killed."""
    workers = items._workers
    for worker in workers:
        if not worker.is_alive() and worker.exitcode:
            return True
    # The pipe breaks a moment before the exit status is available.
    for worker in workers:
        worker.join(_PATIENCE_SECONDS / len(workers))
    return any(worker.exitcode for worker in workers)


def worker_init(_: int) -> None:
    """`worker_init_fn` of a DataLoader: ignore signals, which terminals and schedulers send to all processes.

    The training process handles them. SIGTERM still ends a worker, so that a hanging one can be ended, but only after
    the training process had time to finish its step.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))


def _ignore_sigchld() -> None:
    """Restore SIGCHLD's default: torch's handler raises anywhere when a worker dies; the loader notices it as well."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
