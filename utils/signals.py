"""Signals that a batch scheduler or a user sends to a training."""

import signal
from types import FrameType, TracebackType


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
