"""Signals that a user or a batch scheduler sends to a training."""

import signal
from types import FrameType, TracebackType


class Signals:
    """Records signals inside its block instead of interrupting it.

    SIGTERM and SIGINT set `stop_signal`; SIGUSR1 sets `save_is_asked`. A second SIGINT raises KeyboardInterrupt.
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
    """The exit status that shells report for a process ended by this signal; 0 for no signal."""
    return 128 + number if number else 0
