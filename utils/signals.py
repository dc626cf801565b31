"""Signals that a batch scheduler or a user sends to a training."""

import signal
import threading
from types import FrameType, TracebackType

# What a loader's process has left after SIGTERM.
_GRACE_SECONDS = 20


class Signals:
    """Within its block SIGTERM and SIGINT ask to stop, and SIGUSR1 to save and go on; nothing is torn from its work.

    A second SIGINT interrupts at once, as without it.
    """

    _ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.stop_signal = 0
        self.save_is_asked = False

    def __enter__(self) -> "Signals":
        self._former = [(number, signal.signal(number, self._note)) for number in self._ASKED]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former:
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.save_is_asked = True
        elif number == signal.SIGINT and self.stop_signal == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            self.stop_signal = number


def exit_status(number: int) -> int:
    """The status that shells give to a process that the signal ended; 0 where none came."""
    return 128 + number if number else 0


def ignore_in_helper(_: int) -> None:
    """For a loader's processes: terminals and schedulers send signals to all, and the training process answers.

    SIGTERM still ends them, as it is how a process is got rid of that hangs, but only once a step had time to end.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))


def expect_helpers_to_end() -> None:
    """Undo that torch raises an error, in the midst of anything, when a loader's process ends: its queue tells too."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
