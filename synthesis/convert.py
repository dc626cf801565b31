"""Converts a model of the reference recipe to our own format."""

import shutil
from pathlib import Path

from config.schema import Settings
from models.experiment import Experiment, load_model
from processors.codecs import codec_class
from processors.symbols import SymbolTable
from utils.checkpoint import Checkpoint, checkpoint_name, save_checkpoint
from utils.config import resolve_path, save_settings
from utils.errors import UserError
from utils.paths import ROOT


def convert(source: Checkpoint, settings: Settings, folder: Path) -> Path:
    """Write `source`, with all that inference needs, to a new experiment folder; returns the new checkpoint's path.

    Weights become safetensors, settings are completed, and the ids of the symbol table are written out. If
    `preprocess.codec_checkpoint` names the codec's weights, they are copied. Raises UserError if there is nothing to
    convert, or the folder is in use.
    """
    if not source.is_reference:
        raise UserError(f"--input: {source.path} needs no conversion: it is in our own format")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output: {folder} exists and is not an empty folder; choose another")
    experiment = Experiment(folder)
    table = SymbolTable.load(Experiment.of(source).symbols)
    weights = load_model(source, settings).named_weights()
    # Check everything before the folder is made.
    codec = settings.preprocess.codec_checkpoint
    codec_file = None if codec is None else resolve_path(codec, ROOT)
    if codec_file is not None and not codec_file.is_file():
        raise UserError(f"preprocess.codec_checkpoint: {codec_file} is not a file")
    folder.mkdir(parents=True, exist_ok=True)
    save_settings(settings, experiment.args)
    table.save(experiment.symbols)
    if codec_file is not None:
        shutil.copyfile(
            codec_file, experiment.codec(codec_class(settings.preprocess.acoustic_token_extractor).file_name)
        )
    return save_checkpoint(
        experiment.checkpoints,
        checkpoint_name(source.epoch, source.step, source.loss),
        weights=weights,
        state=None,
        # The reference recipe records neither the stage nor the codec's fingerprint.
        meta={"train_stage": None, "codec": None, "epoch": source.epoch, "step": source.step, "ends_epoch": True},
        rank_states=(),
    )
