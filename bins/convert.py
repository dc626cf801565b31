"""A released model of the reference recipe, rewritten as an experiment folder of our own. Stage 3 reads either."""

from collections.abc import Sequence
from pathlib import Path

from utils.cli import Parser, find_path, run

DESCRIPTION = "Rewrite a released model of the reference recipe as a self-contained experiment folder."


def main(arguments: Sequence[str] | None) -> int:
    parser = Parser(DESCRIPTION, prog="convert.py")
    parser.add_argument("--input", required=True, metavar="DIR", help="its folder, with args.json and checkpoint/")
    parser.add_argument("--output", required=True, metavar="DIR", help="the new experiment folder")
    flags = parser.parse(arguments)

    # Heavy libraries are imported once the flags are known to be right.
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
