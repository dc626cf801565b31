"""Serves the HTTP API, and the page with it, until the process is stopped."""

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from utils.errors import UserError
from utils.log import log
from utils.signals import exit_status
from web.api import SpeechApi, build_api

_MAX_UPLOAD = "64mb"
# Enough for all waiting requests and for the page's other events.
_MAX_THREADS = 64
# After the last request is done, its answer may be on its way. An open page never closes its connection.
_CLOSING_SECONDS = 2


def serve(api: SpeechApi, host: str, port: int, has_page: bool, drain_seconds: float) -> int:
    """Serve until the process is stopped; returns the exit status.

    SIGTERM lets all requests be finished, for `drain_seconds` at most, and refuses new ones. SIGINT, and a second
    SIGTERM, end the server at once. Raises UserError if the address cannot be used.
    """
    app = build_api(api)
    bound = _bind(host, port)
    with _signals() as wait_for_signal, _page(app, api, host, port) if has_page else _nothing():
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=_CLOSING_SECONDS, lifespan="on"
        )
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="server", daemon=True)
        thread.start()
        api.queue.start()
        while thread.is_alive() and not server.started:
            time.sleep(0.01)
        shown = f"[{host}]" if ":" in host else host
        name = "the page and the API are" if has_page else "the API is"
        log.info("%s at http://%s:%d/ (stop it with Ctrl-C)", name, shown, port)
        number = 0
        try:
            number = wait_for_signal(None) if server.started else 0
            if number == signal.SIGTERM:
                api.queue.drain()
                log.info("finishing %d requests; new ones are refused", len(api.queue))
                deadline = time.monotonic() + drain_seconds
                # Of a request that is done, the audio may still be on its way to the client.
                while len(api.queue) or api.metrics.num_open:
                    if time.monotonic() > deadline or wait_for_signal(0.05):
                        break
        finally:
            # From here on, errors are those of connections that stay open, as that of a page does, and are cut off.
            logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
            server.should_exit = True
            server.force_exit = number != signal.SIGTERM
            # Requests that are not done fail now, so that their connections end.
            if len(api.queue):
                api.queue.close()
            thread.join(_CLOSING_SECONDS + 5)
            api.queue.close()
    return exit_status(number) if server.started else 1


def _bind(host: str, port: int) -> socket.socket:
    """A socket with this address. The server listens to it when it is ready, and connections are refused until then."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        return bound
    except (OSError, UnicodeError) as error:
        bound.close()
        raise UserError(
            f"--host, --port: {host}:{port} is in use or not an address of this machine; "
            f"choose another port, such as --port {port % 65535 + 1}"
        ) from error


@contextmanager
def _signals() -> Iterator[Callable[[float | None], int]]:
    """Gives a function that waits some seconds for SIGTERM or SIGINT, and returns its number, or 0."""
    received: list[int] = []
    has_received = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        has_received.set()

    def wait(seconds: float | None) -> int:
        # Without a limit, a signal would not interrupt the wait on some systems.
        while not has_received.wait(3600 if seconds is None else seconds) and seconds is None:
            pass
        has_received.clear()
        return received.pop() if received else 0

    former = [(number, signal.signal(number, note)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        yield wait
    finally:
        for number, handler in former:
            signal.signal(number, handler)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _page(app: FastAPI, api: SpeechApi, host: str, port: int) -> Iterator[None]:
    """Put the page into the application. What it writes is in a folder that is removed when the server ends."""
    import gradio as gr

    from web.layout import CSS, build_page
    from web.page import Page

    # Uploaded prompts and synthesized audio.
    with tempfile.TemporaryDirectory(prefix="vallet-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        most = api.limits.max_characters
        page = Page(api.queue, api.experiments, api.own_settings, Path(folder), voice=api.voice, max_characters=most)
        page.live.mount(app)
        blocks = build_page(page)
        blocks.max_threads = _MAX_THREADS
        gr.mount_gradio_app(
            app,
            blocks,
            "/",
            server_name=host,
            server_port=port,
            # Any name, and the key as the password.
            auth=None if api.api_key is None else lambda _, password: api.is_key(password),
            # No server of Node beside this one.
            ssr_mode=False,
            run_history=False,
            show_error=False,
            max_file_size=_MAX_UPLOAD,
            footer_links=["api"],
            css=CSS,
            # System fonts, so that the page fetches nothing from other machines.
            theme=gr.themes.Default(
                primary_hue="indigo", font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
            ).set(
                # Dark enough to be read.
                block_info_text_color="*neutral_600",
                block_info_text_color_dark="*neutral_300",
            ),
        )
        yield
