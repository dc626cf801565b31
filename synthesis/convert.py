"""Writes a model to a new experiment folder, without the state of its training."""

import shutil
from pathlib import Path

import torch

from config.schema import Settings
from models.experiment import Experiment, load_model
from processors.codecs import codec_class
from processors.symbols import SymbolTable
from utils.checkpoint import Checkpoint, checkpoint_name, load_meta, save_checkpoint
from utils.config import resolve_path, save_settings
from utils.errors import UserError
from utils.paths import ROOT
from utils.text_files import read_text_file


def convert(source: Checkpoint, settings: Settings, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write `source`, with all that inference needs, to a new experiment folder; returns the new checkpoint's path.

    Weights become safetensors of `dtype`, settings are completed, and the ids of the symbol table are written out. The
    codec's file is copied from the experiment, or from where `preprocess.codec_checkpoint` names it. A lexicon is
    copied too. Other files in the folder, such as a model card, stay. Raises UserError if the folder has a file that
    would be written.
    """
    experiment, origin = Experiment(folder), Experiment.of(source)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output: {folder} is not a folder; choose another")
    file_name = codec_class(settings.preprocess.acoustic_token_extractor).file_name
    codec_copy = experiment.codec(file_name)
    for path in (experiment.args, experiment.symbols, experiment.lexicon, codec_copy, experiment.checkpoints):
        if path.exists():
            raise UserError(f"--output: {folder} holds {path.name} of an experiment; choose another folder")
    table = SymbolTable.load(origin.symbols)
    weights = load_model(source, settings).named_weights()
    # Tied weights stay one tensor.
    of_dtype = {weight.data_ptr(): weight.to(dtype) for weight in weights.values()}
    # Check everything before the folder is made.
    codec = settings.preprocess.codec_checkpoint
    codec_file = origin.codec(file_name) if origin.codec(file_name).is_file() else None
    if codec_file is None and codec is not None:
        codec_file = resolve_path(codec, ROOT)
        if not codec_file.is_file():
            raise UserError(f"preprocess.codec_checkpoint: {codec_file} is not a file")
    lexicon = settings.preprocess.lexicon
    if lexicon is not None:
        lexicon_text = read_text_file(resolve_path(lexicon, ROOT))
        preprocess = settings.preprocess.model_copy(update={"lexicon": experiment.lexicon.name})
        settings = settings.model_copy(update={"preprocess": preprocess})
    folder.mkdir(parents=True, exist_ok=True)
    if lexicon is not None:
        experiment.lexicon.write_text(lexicon_text, encoding="utf-8")
    save_settings(settings, experiment.args)
    table.save(experiment.symbols)
    if codec_file is not None:
        shutil.copyfile(codec_file, codec_copy)
    # The reference recipe records neither the stage nor the codec's fingerprint.
    meta = {**load_meta(source), "epoch": source.epoch, "step": source.step, "ends_epoch": True}
    return save_checkpoint(
        experiment.checkpoints,
        checkpoint_name(source.epoch, source.step, source.loss),
        weights={name: of_dtype[weight.data_ptr()] for name, weight in weights.items()},
        state=None,
        meta=meta,
        rank_states=(),
    )
