"""The one place that knows how checkpoints are named, written, found and rotated.

`checkpoint/epoch-%04d_step-%07d_loss-%.6f/` holds `model.safetensors`, the training state and `meta.json`. That of an
adapter has `adapter.safetensors` in place of the model's weights, and its `meta.json` names the base. Checkpoints of
the reference recipe are read as well: `[final_]epoch-...` with `model.safetensors` or `pytorch_model.bin`, and without
`meta.json`.
"""

import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from utils.errors import UserError, first_line
from utils.files import fsync

WEIGHTS, ADAPTER, STATE, META = "model.safetensors", "adapter.safetensors", "training_state.pt", "meta.json"
_META_KEYS = {"train_stage", "codec", "ends_epoch"}
_NAME = re.compile(r"epoch-(\d+)_step-(\d+)_loss-(-?\d+\.\d+|nan|inf)")
_REFERENCE_NAME = re.compile(r"(final_)?epoch-(\d+)(?:_step-(\d+))?(?:_loss-(-?\d+\.\d+))?.*")
_REFERENCE_WEIGHTS = (WEIGHTS, "pytorch_model.bin")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk; `is_reference` if the reference recipe wrote it."""

    path: Path
    epoch: int
    step: int
    loss: float
    is_reference: bool = False

    @property
    def weights(self) -> Path:
        names = _REFERENCE_WEIGHTS if self.is_reference else (WEIGHTS, ADAPTER)
        return next((self.path / name for name in names if (self.path / name).is_file()), self.path / WEIGHTS)

    @property
    def is_adapter(self) -> bool:
        """Whether the weights are those of an adapter alone."""
        return self.weights.name == ADAPTER

    @property
    def can_resume(self) -> bool:
        """Whether the training state is there. Weights alone are enough for synthesis and fine-tuning."""
        return (self.path / STATE).is_file()


def checkpoint_name(epoch: int, step: int, loss: float) -> str:
    return f"epoch-{epoch:04d}_step-{step:07d}_loss-{loss:.6f}"


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """The complete checkpoints in a `checkpoint` folder, oldest first; other files and folders are ignored.

    Checkpoints of the reference recipe are returned only if there are none of our own.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        has_weights = (path / WEIGHTS).is_file() or (path / ADAPTER).is_file()
        if match and has_weights and _read_meta(path).keys() >= _META_KEYS:
            found.append(Checkpoint(path, int(match[1]), int(match[2]), float(match[3])))
    if not found:
        return _find_reference_checkpoints(folder)
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.epoch))


def _find_reference_checkpoints(folder: Path) -> list[Checkpoint]:
    """Sorted by epoch, the final one of an epoch last. A folder with our files is our own incomplete checkpoint."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _REFERENCE_NAME.fullmatch(path.name)
        is_ours = (path / META).exists() or (path / STATE).exists()
        if match and not is_ours and any((path / name).is_file() for name in _REFERENCE_WEIGHTS):
            epoch, step, loss = int(match[2]), int(match[3] or 0), float(match[4] or 0)
            checkpoint = Checkpoint(path, epoch, step, loss, is_reference=True)
            found.append((checkpoint.epoch, match[1] is not None, checkpoint.step, path.name, checkpoint))
    return [checkpoint for *_, checkpoint in sorted(found, key=lambda row: row[:-1])]


def resolve_checkpoint(path: Path, flag: str) -> Checkpoint:
    """The checkpoint that `path` stands for: the newest of an experiment or `checkpoint` folder, or that very one.

    Raises UserError naming the flag if there is none.
    """
    if not path.is_dir():
        raise UserError(f"{flag}: no folder {path}")
    for folder in (path / "checkpoint", path):
        found = find_checkpoints(folder)
        if found:
            return found[-1]
    match = [checkpoint for checkpoint in find_checkpoints(path.parent) if checkpoint.path.name == path.name]
    if not match:
        raise UserError(f"{flag}: no whole checkpoint (folder epoch-... with {WEIGHTS} and {META}) in {path}")
    return match[0]


def experiment_of(checkpoint: Checkpoint) -> Path:
    """The experiment folder of a checkpoint; it holds `args.json`."""
    return checkpoint.path.parent.parent


def save_checkpoint(
    folder: Path,
    name: str,
    weights: dict[str, Tensor],
    state: dict[str, Any] | None,
    meta: dict[str, Any],
    rank_states: Sequence[dict[str, Any]],
) -> Path:
    """Write a checkpoint to a temporary folder, sync it to disk, then rename it; returns its path.

    With `adapter` in `meta`, the weights are those of an adapter. `rank_states` holds each rank's own state, such as
    its random state. Without a `state`, training cannot resume from the checkpoint. Raises UserError if it cannot be
    written; earlier checkpoints are not touched.
    """
    target, temporary = folder / name, folder / f".{name}.part"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(_untied(weights), temporary / (ADAPTER if "adapter" in meta else WEIGHTS))
        if state is not None:
            torch.save({**state, "ranks": list(rank_states)}, temporary / STATE)
        (temporary / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        # Sync before the rename: after a crash, a complete name must not have incomplete content.
        for path in [*temporary.iterdir(), temporary]:
            fsync(path)
        if target.exists():
            _remove(target)
        temporary.rename(target)
        fsync(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors wrap the operating system's error: a full disk, a quota, a read-only folder.
        shutil.rmtree(temporary, ignore_errors=True)
        reason = first_line(error)
        raise UserError(
            f"{target}: the checkpoint could not be written ({reason}); free some space or set another log_dir, and "
            "continue from the previous checkpoint with --resume true"
        ) from error
    return target


def load_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights by name, memory-mapped: tensors that are not read cost no memory.

    Raises UserError if the file is damaged, or is a pickle of anything but tensors, which might run code.
    """
    path = checkpoint.weights
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            # Files written by torch before 1.6 are not zip archives, and cannot be memory-mapped.
            weights = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused: the file is damaged, or holds more than tensors, and loading it could run code; "
            "get the weights as safetensors"
        ) from error
    except Exception as error:  # A damaged file raises many types.
        reason = first_line(error)
        raise UserError(f"{path}: damaged ({reason}); use another checkpoint") from error
    is_dict = isinstance(weights, dict) and len(weights) > 0
    if not is_dict or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path}: not a dict of named weights; use another checkpoint")
    return weights


def load_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """The training state that resuming needs beside the weights. Raises UserError if it is missing or damaged."""
    path = checkpoint.path / STATE
    if not checkpoint.can_resume:
        raise UserError(
            f"{path}: missing, so training cannot resume from here; --resume_type finetune does not need it"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types on a damaged file.
        raise UserError(f"{path}: damaged; use another checkpoint, or --resume_type finetune") from error


def load_meta(checkpoint: Checkpoint) -> dict[str, Any]:
    """The `meta` of `save_checkpoint`. Checkpoints of the reference recipe record neither stage nor codec."""
    if checkpoint.is_reference:
        return {"train_stage": None, "codec": None}
    return _read_meta(checkpoint.path)


def rotate(folder: Path, strides: Sequence[int], keep_last: Sequence[int], keep_last_steps: int) -> None:
    """Remove checkpoints that no rule keeps; the newest always stays.

    Of the checkpoints at an epoch's end, each stride keeps the last `keep_last` (-1: all) whose epoch is a multiple of
    it. Of all others the last `keep_last_steps` stay.
    """
    found = find_checkpoints(folder)
    at_epoch_end = [checkpoint for checkpoint in found if load_meta(checkpoint)["ends_epoch"]]
    between = [checkpoint for checkpoint in found if checkpoint not in at_epoch_end]
    kept = {checkpoint.path for checkpoint in found[-1:] + between[-keep_last_steps:]}
    for stride, keep in zip(strides, keep_last, strict=True):
        of_stride = [checkpoint for checkpoint in at_epoch_end if checkpoint.epoch % stride == 0]
        kept.update(checkpoint.path for checkpoint in (of_stride if keep == -1 else of_stride[-keep:]))
    for checkpoint in found:
        if checkpoint.path not in kept:
            _remove(checkpoint.path)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed training left half written or half removed; no other process may be writing there."""
    for suffix in (".part", ".old"):
        for path in folder.glob(f".epoch-*{suffix}"):
            shutil.rmtree(path, ignore_errors=True)


def set_aside(checkpoints: Sequence[Checkpoint]) -> Path | None:
    """Move checkpoints to `checkpoint/superseded`, where `find_checkpoints` does not look; returns that folder."""
    for checkpoint in checkpoints:
        folder = checkpoint.path.parent / "superseded"
        folder.mkdir(exist_ok=True)
        target = folder / checkpoint.path.name
        count = 1
        while target.exists():
            count += 1
            target = folder / f"{checkpoint.path.name}__{count}"
        checkpoint.path.rename(target)
    return checkpoints[0].path.parent / "superseded" if checkpoints else None


def _read_meta(path: Path) -> dict[str, Any]:
    """The content of `meta.json`; empty if it is missing or damaged."""
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _untied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """One name for each tensor: safetensors cannot store shared tensors, and loading needs one of a tied pair."""
    unique: dict[int, str] = {}
    for name, value in weights.items():
        unique.setdefault(value.data_ptr(), name)
    return {name: weights[name].contiguous() for name in unique.values()}


def _remove(path: Path) -> None:
    # Renamed first: an interrupted removal must not leave what looks like a complete checkpoint.
    temporary = path.with_name(f".{path.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    path.rename(temporary)
    shutil.rmtree(temporary, ignore_errors=True)
