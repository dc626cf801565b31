"""Averages the last checkpoints of a training into a folder that stage 3 takes."""

from collections.abc import Sequence
from pathlib import Path

from utils.cli import Parser, find_experiment, run

DESCRIPTION = (
    "Average the weights of the last checkpoints of an experiment, and write them to a new experiment folder with all "
    "that stage 3 needs."
)


def main(arguments: Sequence[str] | None) -> int:
    parser = Parser(DESCRIPTION, prog="average.py")
    parser.add_argument("--infer_expt_dir", metavar="DIR", help="experiment: average its newest checkpoints")
    parser.add_argument("--checkpoint", metavar="DIR", help="one checkpoint: average it with those before it")
    parser.add_argument("--num_checkpoints", type=int, required=True, metavar="K", help="how many")
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="the new experiment folder")
    flags = parser.parse(arguments)
    if (flags.infer_expt_dir is None) == (flags.checkpoint is None):
        parser.error("--infer_expt_dir, --checkpoint: give one of the two")
    if flags.num_checkpoints < 1:
        parser.error(f"--num_checkpoints: at least 1, not {flags.num_checkpoints}")

    # Import heavy libraries only after the flags are checked.
    from models.experiment import Experiment
    from synthesis.average import average
    from utils.checkpoint import resolve_checkpoint
    from utils.log import log, set_up_logging

    set_up_logging()
    flag = "--infer_expt_dir" if flags.checkpoint is None else "--checkpoint"
    last = resolve_checkpoint(find_experiment(flags.infer_expt_dir or flags.checkpoint, flag), flag)
    folder = Path(flags.output_dir).absolute()
    averaged = average(last, flags.num_checkpoints, Experiment.of(last).settings(flags.set), folder)
    for checkpoint in averaged:
        log.info("averaged: %s", checkpoint.path)
    log.info("%s is their mean", folder)
    return 0


if __name__ == "__main__":
    run(main)
