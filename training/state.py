"""The training state in a checkpoint: progress, the optimizer, and each rank's random state."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from config.schema import TrainSettings
from training.parallel import shard_like
from training.sequence import Position
from utils.checkpoint import Checkpoint, load_state
from utils.errors import UserError
from utils.log import log


@dataclass
class Progress:
    """Progress of a training: optimizer steps, the next batch of the sequence of all epochs, the last mean loss."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    loss: float = 0.0

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.batch)


def load_resumable(source: Checkpoint, optimizer_name: str) -> dict[str, Any]:
    """The state of a checkpoint. Raises UserError where training cannot resume from it with this optimizer."""
    state = load_state(source)
    if "data" not in state:
        raise UserError(f"{source.path} is of an older version; continue from it with --resume_type finetune")
    if state["optimizer_name"] != optimizer_name:
        raise UserError(f"train.optimizer: {source.path} was trained with {state['optimizer_name']}; resume with it")
    return state


def resumable(
    optimizer: dict[str, Any], optimizer_name: str, progress: Progress, num_ranks: int, data_fingerprint: str
) -> dict[str, Any]:
    """The state of a checkpoint, as `load_resumable` and `restore` take it."""
    return {
        "optimizer": optimizer,
        "optimizer_name": optimizer_name,
        "progress": asdict(progress),
        "num_processes": num_ranks,
        "data": data_fingerprint,
    }


def restore(
    state: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    settings: TrainSettings,
    data_fingerprint: str,
) -> Progress:
    """Load the optimizer's moments, sharded like the parameters; returns the saved progress.

    If the plan of batches has changed since, its `batch` is 0: the epoch starts again.
    """
    saved = state["optimizer"]
    for index, moments in saved["state"].items():
        parameter = parameters[index]
        saved["state"][index] = {
            name: shard_like(value, parameter) if value.shape == parameter.shape else value
            for name, value in moments.items()
        }
    optimizer.load_state_dict(saved)
    for group in optimizer.param_groups:
        # Use the current hyperparameters, not the checkpoint's.
        group.update(betas=tuple(settings.adamw.betas), weight_decay=settings.adamw.weight_decay)
    counted = dict(state["progress"])
    # Older versions counted blocks of shards instead of batches.
    is_counted_otherwise = any(counted.pop("place", {}).values())
    progress = Progress(**counted)
    if is_counted_otherwise or (progress.batch and state["data"] != data_fingerprint):
        progress.batch = 0
        log.info("the data or how it is read has changed: epoch %d starts again", progress.epoch)
    return progress


def random_state(device: torch.device) -> dict[str, Any]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
