"""DataLoader workers: their signals, and how it is reported that one died."""

import signal
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from utils.errors import UserError

Item = TypeVar("Item")
# What a worker has left after SIGTERM.
_GRACE_SECONDS = 20
# Until a worker that was killed has ended for the system, too.
_PATIENCE_SECONDS = 5


class WorkerDiedError(UserError):
    """A DataLoader worker ended before its work did."""


def iterate(loader: DataLoader[Any], advice: str) -> Iterator[Any]:
    """The items of a loader. Raises WorkerDiedError, with the advice, where a worker died.

    The loss of a worker surfaces as whatever failed first: torch's RuntimeError, or that of the pipe or of the socket
    that a tensor was to come through, such as ConnectionResetError, EOFError or FileNotFoundError. So the workers
    themselves are asked.
    """
    if not loader.num_workers:
        yield from loader
        return
    try:
        items = iter(loader)
    except (ConnectionError, EOFError) as error:
        # The server that starts workers is gone.
        raise WorkerDiedError(f"a DataLoader worker died; {advice}") from error
    _ignore_sigchld()
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except Exception as error:
            # What a worker raised itself comes with a line that says so.
            if str(error).startswith("Caught ") or not ("exited unexpectedly" in str(error) or _has_died(items)):
                raise
            raise WorkerDiedError(f"a DataLoader worker died, perhaps for want of memory; {advice}") from error
        yield item


def _has_died(items: Any) -> bool:
    """Whether a worker ended otherwise than by coming to the end of its items."""
    workers = items._workers
    for worker in workers:
        if not worker.is_alive() and worker.exitcode:
            return True
    # The pipe breaks a moment before the process counts as ended.
    for worker in workers:
        worker.join(_PATIENCE_SECONDS / len(workers))
    return any(worker.exitcode for worker in workers)


def worker_init(_: int) -> None:
    """For workers: terminals and schedulers send signals to all processes, and the training process answers them.

    SIGTERM still ends them, as it is how a process is got rid of that hangs, but only once a step had time to end.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))


def _ignore_sigchld() -> None:
    """Restore SIGCHLD's default: torch's handler raises anywhere when a worker dies; the loader notices it as well."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
