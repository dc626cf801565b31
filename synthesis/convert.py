"""A model of the reference recipe as an experiment folder of our own."""

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
    """Write `source` and what inference needs beside it into a new folder; returns the new checkpoint's path.

    Weights become safetensors, settings complete, and the symbol table one whose ids count. EnCodec's weights are
    copied where `preprocess.codec_checkpoint` names them. Raises UserError when there is nothing to convert, or the
    folder is in use.
    """
    if not source.is_reference:
        raise UserError(f"--input: {source.path} needs no conversion: it is in our own format")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output: {folder} is there already and not an empty folder; choose another")
    experiment = Experiment(folder)
    table = SymbolTable.load(Experiment.of(source).symbols)
    weights = load_model(source, settings).named_weights()
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
        meta={"train_stage": None, "codec": None, "epoch": source.epoch, "step": source.step, "ends_epoch": True},
        rank_states=(),
    )
