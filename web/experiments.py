"""Finds the experiments that the page offers: those that are trained completely."""

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from models.experiment import Experiment, holds_whole_model
from processors.symbols import SymbolTable
from utils.checkpoint import Checkpoint, experiment_of, find_checkpoints, resolve_checkpoint
from utils.errors import UserError
from utils.hub import experiment_name
from utils.log import log


@dataclass(frozen=True)
class ExperimentList:
    """The experiments below `log_dir`, after `first` and before `last`: an experiment or a checkpoint, anywhere."""

    log_dir: Path
    first: Path | None = None
    last: Path | None = None

    def find(self) -> dict[str, Checkpoint]:
        """Return the checkpoint to use for each experiment, by name, in the page's order. Rereads the disk."""
        found = _named(self.first)
        for folder in sorted(self.log_dir.iterdir()) if self.log_dir.is_dir() else ():
            checkpoints = find_checkpoints(folder / "checkpoint")
            if checkpoints and can_speak(checkpoints[-1]):
                found.setdefault(folder.name, checkpoints[-1])
        return found | {name: checkpoint for name, checkpoint in _named(self.last).items() if name not in found}

    def first_checkpoint(self) -> Checkpoint:
        """Return the checkpoint that the page selects at first. Raises UserError if there is no usable experiment."""
        if self.first is not None:
            return resolve_checkpoint(self.first, "--infer_expt_dir")
        for checkpoint in self.find().values():
            return checkpoint
        raise UserError(
            f"--log_dir: no experiment with an AR and a NAR model in {self.log_dir}; train one (--stage 2), or name "
            "one with --infer_expt_dir"
        )


def _named(folder: Path | None) -> dict[str, Checkpoint]:
    """The name and the checkpoint of an experiment; nothing if it was removed, as the others are still offered."""
    if folder is None:
        return {}
    with suppress(UserError):
        checkpoint = resolve_checkpoint(folder, "--infer_expt_dir")
        return {experiment_name(experiment_of(checkpoint)): checkpoint}
    return {}


@lru_cache(maxsize=1024)
def can_speak(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds the complete model and its experiment can be read; if not, the reason is logged."""
    experiment = Experiment.of(checkpoint)
    try:
        SymbolTable.load(experiment.symbols)
        return holds_whole_model(checkpoint)
    except UserError as error:
        log.warning("%s is left out: %s", experiment.folder, error)
        return False
