"""Writes a model of a training, or a released model of the reference recipe, to a folder with all it needs to speak."""

from collections.abc import Sequence
from pathlib import Path

from utils.cli import Parser, find_path, run

DESCRIPTION = (
    "Write a trained model, or a released model of the reference recipe, to a new experiment folder with all that "
    "stage 3 needs, and without the state of the training."
)


def main(arguments: Sequence[str] | None) -> int:
    parser = Parser(DESCRIPTION, prog="convert.py")
    parser.add_argument("--input", required=True, metavar="DIR", help="experiment, or released folder")
    parser.add_argument("--output", required=True, metavar="DIR", help="the new experiment folder")
    parser.add_argument(
        "--dtype", choices=("fp32", "bf16"), default="fp32", help="of the weights; bf16 halves the file (default fp32)"
    )
    parser.add_argument("--merge", action="store_true", help="the input is an adapter: merge it into its base")
    flags = parser.parse(arguments)

    # Import heavy libraries only after the flags are checked.
    import torch

    from models.experiment import Experiment
    from synthesis.convert import convert
    from utils.checkpoint import resolve_checkpoint
    from utils.log import log, set_up_logging

    set_up_logging()
    source = resolve_checkpoint(find_path(flags.input, "--input"), "--input")
    dtype = torch.bfloat16 if flags.dtype == "bf16" else torch.float32
    settings, folder = Experiment.of(source).settings(flags.set), Path(flags.output).absolute()
    written = convert(source, settings, folder, dtype, flags.merge)
    log.info("%s is now %s", source.path, written)
    return 0


if __name__ == "__main__":
    run(main)
