"""Serves the page until the process is stopped."""

import os
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import gradio as gr

from config.schema import InferSettings
from models.experiment import Experiment
from synthesis.queue import SynthesisQueue
from utils.errors import UserError
from utils.log import log
from web.experiments import ExperimentList
from web.page import Page, build_page

_MAX_UPLOAD = "64mb"
# Enough for all waiting requests and for the page's other events.
_MAX_THREADS = 64
# Keep a long label beside the player's button, not below it.
_CSS = ".remembered > label { max-width: calc(100% - 3rem); }"


def serve(
    queue: SynthesisQueue,
    experiments: ExperimentList,
    settings: Callable[[Experiment], InferSettings],
    host: str,
    port: int,
) -> None:
    """Serve the page until the process is interrupted. Raises UserError if the address cannot be used."""
    # Handle SIGTERM as Ctrl-C, so that the cleanup below runs.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Uploaded prompts and synthesized audio are deleted when the server ends.
    with tempfile.TemporaryDirectory(prefix="vallet-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = build_page(Page(queue, experiments, settings, Path(folder)))
        try:
            _, url, _ = blocks.launch(
                server_name=host,
                server_port=port,
                # No tunnel through gradio's servers, and no server of Node beside this one.
                share=False,
                ssr_mode=False,
                quiet=True,
                prevent_thread_lock=True,
                max_threads=_MAX_THREADS,
                max_file_size=_MAX_UPLOAD,
                footer_links=["api"],
                css=_CSS,
                # System fonts, so that the page fetches nothing from other machines.
                theme=gr.themes.Default(
                    primary_hue="indigo", font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
                ),
            )
        except OSError as error:
            raise UserError(
                f"--host, --port: {host}:{port} is in use or not an address of this machine; "
                f"choose another port, such as --port {port % 65535 + 1}"
            ) from error
        queue.start()
        log.info("the page is at %s (stop it with Ctrl-C)", url)
        try:
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)
            queue.close()
