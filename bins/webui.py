"""Stage 5: a web page that synthesizes speech."""

from collections.abc import Sequence
from importlib.util import find_spec

from utils.cli import Parser, find_path, run
from utils.errors import UserError
from utils.paths import PRETRAINED, ROOT

DESCRIPTION = "Stage 5: a web page that synthesizes texts in the voices of prompts, with trained experiments."


def main(arguments: Sequence[str] | None) -> int:
    parser = Parser(DESCRIPTION)
    parser.add_argument(
        "--config", "-c", default="egs/tts/VALLE/exp_config.json", metavar="FILE", help="config with the log_dir"
    )
    parser.add_argument("--infer_expt_dir", metavar="DIR", help="the experiment that is selected at first")
    parser.add_argument("--log_dir", metavar="DIR", help="parent folder of the experiments; default: the config's")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all")
    parser.add_argument("--port", type=int, default=7860)
    flags = parser.parse(arguments)
    if not 1 <= flags.port <= 65535:
        parser.error(f"--port: takes 1 to 65535, not {flags.port}")
    if find_spec("gradio") is None:
        raise UserError("stage 5 needs gradio; install it with pip install -e '.[web]', or all with make install")

    # Import heavy libraries only after the flags are checked.
    from config.schema import Settings
    from synthesis.load import load_experiment
    from utils.config import load_settings, resolve_path
    from utils.device import require_asked_gpus
    from utils.log import set_up_logging
    from web.experiments import ExperimentList
    from web.server import serve
    from web.synthesis_queue import SynthesisQueue

    require_asked_gpus()
    set_up_logging()
    if flags.log_dir is not None:
        log_dir = find_path(flags.log_dir, "--log_dir")
    else:
        # Synthesis needs no corpus, so its path may still be a placeholder.
        no_corpus = ('dataset=["custom"]', "dataset_path.custom=.")
        config = find_path(flags.config, "--config")
        log_dir = resolve_path(load_settings(config, Settings, [*no_corpus, *flags.set], root=ROOT).log_dir, ROOT)
    first = find_path(flags.infer_expt_dir, "--infer_expt_dir") if flags.infer_expt_dir is not None else None
    queue = SynthesisQueue(lambda checkpoint: load_experiment(checkpoint.path, "--infer_expt_dir", flags.set)[0])
    experiments = ExperimentList(log_dir, first, last=PRETRAINED)
    # Load the first model before anyone opens the page.
    queue.load(experiments.first_checkpoint())
    serve(queue, experiments, lambda experiment: experiment.settings(flags.set).infer, flags.host, flags.port)
    return 0


if __name__ == "__main__":
    run(main)
