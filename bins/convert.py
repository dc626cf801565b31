"""Converts a released model of the reference recipe to an experiment folder of our own. Stage 3 reads both."""

from collections.abc import Sequence
from pathlib import Path

from utils.cli import Parser, find_path, run

DESCRIPTION = "Convert a released model of the reference recipe to a self-contained experiment folder."


def main(arguments: Sequence[str] | None) -> int:
    parser = Parser(DESCRIPTION, prog="convert.py")
    parser.add_argument("--input", required=True, metavar="DIR", help="released folder, with args.json and checkpoint/")
    parser.add_argument("--output", required=True, metavar="DIR", help="the new experiment folder")
    flags = parser.parse(arguments)

    # Import heavy libraries only after the flags are checked.
    from models.experiment import Experiment
    from synthesis.convert import convert
    from utils.checkpoint import resolve_checkpoint
    from utils.log import log, set_up_logging

    set_up_logging()
    source = resolve_checkpoint(find_path(flags.input, "--input"), "--input")
    written = convert(source, Experiment.of(source).settings(flags.set), Path(flags.output).absolute())
    log.info("%s is now %s", source.path, written)
    return 0


if __name__ == "__main__":
    run(main)
