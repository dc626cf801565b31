"""Trainers of tiny models, without a corpus and its stages."""

from pathlib import Path

from accelerate import Accelerator

from models.valle.valle import VALLE
from training.data import TrainData
from training.parallel import EvalModel
from training.trainer import Trainer


def build_trainer(model: VALLE, data: TrainData, folder: Path, accelerator: Accelerator | None = None) -> Trainer:
    """On the CPU; the settings are those of the data."""
    accelerator = accelerator or Accelerator(cpu=True)
    return Trainer(
        settings=data.settings,
        model=model,
        eval_model=EvalModel(model, accelerator),
        data=data,
        folder=folder,
        accelerator=accelerator,
        samples=None,
        num_utterances=24,
        meta={"train_stage": 1 if model.ar_trains else 2, "codec": "made up"},
    )
