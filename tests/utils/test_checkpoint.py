"""Only complete checkpoints are found."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from utils.checkpoint import META, WEIGHTS, checkpoint_name, find_checkpoints, rotate, save_checkpoint

META_OF_ONE = {"train_stage": 1, "codec": None, "ends_epoch": False}
DAMAGES: dict[str, Callable[[Path], object]] = {
    "no weights": lambda path: (path / WEIGHTS).unlink(),
    "no meta": lambda path: (path / META).unlink(),
    "half of meta": lambda path: (path / META).write_text('{"train_stage": 1, "co'),
    "meta that says nothing": lambda path: (path / META).write_text("{}"),
    "meta that is a list": lambda path: (path / META).write_text("[]"),
    "deep meta": lambda path: (path / META).write_text("[" * 100_000),
    "meta that is no text": lambda path: (path / META).write_bytes(b"\xff\xfe\x00"),
    "a folder as meta": lambda path: ((path / META).unlink(), (path / META).mkdir()),
}


def save(folder: Path, step: int) -> Path:
    weights = {"ar_weight": torch.full((3,), float(step))}
    return save_checkpoint(folder, checkpoint_name(0, step, 1.5), weights, {}, META_OF_ONE, [])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_ignored_and_does_not_affect_others(tmp_path: Path, damage: str) -> None:
    paths = [save(tmp_path, step) for step in (1, 2, 3)]
    DAMAGES[damage](paths[-1])
    assert [found.path for found in find_checkpoints(tmp_path)] == paths[:2]
    rotate(tmp_path, [1], [-1], keep_last_steps=1)
    assert [found.path for found in find_checkpoints(tmp_path)] == paths[1:2]


def test_saving_again_replaces_a_checkpoint(tmp_path: Path) -> None:
    assert save(tmp_path, 1) == save(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint_name(0, 1, 1.5)]
