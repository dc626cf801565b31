"""Averages the weights of several checkpoints of one training."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from config.schema import Settings
from models.experiment import read_weights
from synthesis.convert import check_new_folder, write_model
from utils.checkpoint import Checkpoint, find_checkpoints, load_meta
from utils.errors import UserError
from utils.log import progress_bar


def average(last: Checkpoint, num: int, settings: Settings, folder: Path) -> list[Checkpoint]:
    """Write the mean of the `num` checkpoints up to `last` to a new experiment folder; returns these checkpoints.

    Raises UserError if there are too few, they are of different models, or the folder has a file that would be written.
    """
    check_new_folder(folder, settings, "--output_dir")
    checkpoints = checkpoints_up_to(last, num)
    meta = {**load_meta(last), "average_of": [checkpoint.path.name for checkpoint in checkpoints]}
    write_model(last, settings, folder, mean_weights(checkpoints), meta)
    return checkpoints


def checkpoints_up_to(last: Checkpoint, num: int) -> list[Checkpoint]:
    """The `num` checkpoints of a training up to `last`, oldest first. Raises UserError if there are fewer."""
    found = find_checkpoints(last.path.parent)
    up_to_last = found[: [checkpoint.path for checkpoint in found].index(last.path) + 1]
    if len(up_to_last) < num:
        raise UserError(
            f"--num_checkpoints: {last.path.parent} holds {len(up_to_last)} checkpoints up to {last.path.name}, not "
            f"{num}; take fewer, or keep more in a training with train.keep_last and train.keep_last_steps"
        )
    return up_to_last[len(up_to_last) - num :]


def mean_weights(checkpoints: Sequence[Checkpoint]) -> dict[str, Tensor]:
    """The mean of each weight, in its own type; a count, which is no float, is the last one.

    Raises UserError if the checkpoints do not have the same weights.
    """
    # Files are memory-mapped: one weight of each is in memory at a time, but for the layers of adapters.
    each = [read_weights(checkpoint) for checkpoint in checkpoints]
    shapes = [{name: value.shape for name, value in weights.items()} for weights in each]
    for checkpoint, own in zip(checkpoints, shapes, strict=True):
        if own != shapes[-1]:
            raise UserError(
                f"{checkpoint.path}: its weights are not those of {checkpoints[-1].path.name}; average fewer"
            )
    means = {}
    with progress_bar(total=len(each[-1]), desc="averaging", unit="weight") as bar:
        for name, last in each[-1].items():
            # In double precision, so that the mean of equal weights is that weight, bit for bit.
            values = [weights[name].double() for weights in each] if last.is_floating_point() else []
            means[name] = torch.stack(values).mean(0).to(last.dtype) if values else last
            bar.update()
    return means
