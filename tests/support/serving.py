"""Runs a server's program in this thread, as it needs signals, while another thread uses it and then stops it."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def signals_restored() -> Iterator[None]:
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def run_server(program: Callable[[], int | str | None], port: int, use: Callable[[str], None]) -> int | str | None:
    """The exit status of a program that serves at a port, after `use` was called with its URL and SIGTERM was sent.

    `use` may send SIGTERM itself: a second one ends the server at once.
    """
    has_ended, errors = threading.Event(), []

    def is_listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def use_and_stop() -> None:
        while not is_listening():
            if has_ended.wait(0.05):
                return
        try:
            use(f"http://127.0.0.1:{port}")
        except BaseException as error:
            errors.append(error)
        if not has_ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    user = threading.Thread(target=use_and_stop)
    user.start()
    try:
        status = program()
    finally:
        has_ended.set()
        user.join()
    if errors:
        raise errors[0]
    return status
