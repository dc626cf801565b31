"""Serves an HTTP API that clients of OpenAI's speech endpoint use."""

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec

from utils.cli import Parser, find_config, find_experiment, find_path, run
from utils.errors import UserError
from utils.paths import PRETRAINED, ROOT

DESCRIPTION = "An HTTP API as OpenAI's that synthesizes texts in saved voices, with trained experiments."
KEY_VARIABLE = "VALLET_API_KEY"


def parse(arguments: Sequence[str] | None, description: str, prog: str, port: int) -> argparse.Namespace:
    """The flags of the API, which stage 5 has, too."""
    parser = Parser(description, prog=prog)
    parser.add_argument("--config", "-c", metavar="FILE", help="config with the log_dir (default: the recipe's)")
    parser.add_argument("--infer_expt_dir", metavar="DIR", help="the experiment that is selected at first")
    parser.add_argument("--infer_voice", metavar="NAME", help="the voice of requests that name none")
    parser.add_argument("--log_dir", metavar="DIR", help="parent folder of the experiments; default: the config's")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all")
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--api_key", metavar="KEY", help=f"key that clients must send (default: ${KEY_VARIABLE})")
    parser.add_argument("--max_characters", type=int, default=4096, metavar="N", help="of a text (default 4096)")
    parser.add_argument("--max_waiting", type=int, default=32, metavar="N", help="requests in the queue (default 32)")
    parser.add_argument("--max_seconds", type=float, default=600, metavar="S", help="of a request (default 600)")
    parser.add_argument("--drain_seconds", type=float, default=60, metavar="S", help="after SIGTERM (default 60)")
    flags = parser.parse(arguments)
    if not 1 <= flags.port <= 65535:
        parser.error(f"--port: takes 1 to 65535, not {flags.port}")
    for name in ("max_characters", "max_waiting", "max_seconds", "drain_seconds"):
        if not getattr(flags, name) > 0:
            parser.error(f"--{name}: takes a number above 0, not {getattr(flags, name)}")
    flags.api_key = flags.api_key if flags.api_key is not None else os.environ.get(KEY_VARIABLE)
    if flags.api_key is not None and not flags.api_key.strip():
        parser.error("--api_key: the key is empty")
    return flags


def serve_experiments(flags: argparse.Namespace, has_page: bool) -> int:
    """Load the first experiment, and serve."""
    # Import heavy libraries only after the flags are checked.
    from config.schema import Settings
    from evaluation.candidates import add_error_rate
    from synthesis.load import load_experiment
    from synthesis.queue import SynthesisQueue
    from synthesis.synthesizer import Synthesizer
    from synthesis.voices import find_voice
    from utils.checkpoint import Checkpoint, experiment_of
    from utils.config import load_settings, resolve_path
    from utils.device import require_asked_gpus
    from utils.log import set_up_logging
    from web.api import SpeechApi
    from web.experiments import ExperimentList
    from web.server import serve
    from web.speech_response import ApiLimits

    require_asked_gpus()
    set_up_logging()
    if flags.log_dir is not None:
        log_dir = find_path(flags.log_dir, "--log_dir")
    else:
        # Synthesis needs no corpus, so its path may still be a placeholder.
        no_corpus = ('dataset=["custom"]', "dataset_path.custom=.")
        config = find_config(flags.config)
        log_dir = resolve_path(load_settings(config, Settings, [*no_corpus, *flags.set], root=ROOT).log_dir, ROOT)
    first = find_experiment(flags.infer_expt_dir, "--infer_expt_dir") if flags.infer_expt_dir is not None else None

    def load(checkpoint: Checkpoint) -> Synthesizer:
        synthesizer, _ = load_experiment(checkpoint.path, "--infer_expt_dir", flags.set)
        add_error_rate(synthesizer)
        return synthesizer

    queue = SynthesisQueue(load)
    experiments = ExperimentList(log_dir, first, last=PRETRAINED)
    checkpoint = experiments.first_checkpoint()
    if flags.infer_voice is not None:
        find_voice(flags.infer_voice, experiment_of(checkpoint), "--infer_voice")
    # Load the first model before anyone sends a text.
    queue.load(checkpoint)
    limits = ApiLimits(flags.max_characters, flags.max_waiting, flags.max_seconds)
    api = SpeechApi(
        queue,
        experiments,
        lambda experiment: experiment.settings(flags.set).infer,
        limits,
        flags.api_key,
        flags.infer_voice,
    )
    return serve(api, flags.host, flags.port, has_page, flags.drain_seconds)


def main(arguments: Sequence[str] | None) -> int:
    flags = parse(arguments, DESCRIPTION, "serve.py", 8000)
    if missing := [name for name in ("fastapi", "prometheus_client", "uvicorn") if find_spec(name) is None]:
        raise UserError(f"the API needs {missing[0]}; install it with pip install -e '.[serve]'")
    return serve_experiments(flags, has_page=False)


if __name__ == "__main__":
    run(main)
