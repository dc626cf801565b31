"""Trainers of tiny models, without a corpus and its stages."""

from copy import deepcopy
from pathlib import Path

from accelerate import Accelerator

from models.valle.data import TrainData
from models.valle.trainer import Trainer
from models.valle.valle import VALLE


def build_trainer(model: VALLE, data: TrainData, folder: Path, accelerator: Accelerator | None = None) -> Trainer:
    """On the CPU; the settings are those of the data."""
    accelerator = accelerator or Accelerator(cpu=True)
    return Trainer(
        settings=data.settings,
        model=model,
        whole_model=deepcopy(model) if accelerator.is_fsdp2 else model,
        data=data,
        folder=folder,
        accelerator=accelerator,
        samples=None,
        num_utterances=24,
        meta={"train_stage": 1 if model.ar_trains else 2, "codec": "made up"},
    )
