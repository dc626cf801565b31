"""Writes a model to a new experiment folder, without the state of its training."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.schema import Settings
from models.experiment import Experiment, load_model
from processors.codecs import codec_class
from processors.symbols import SymbolTable
from utils.checkpoint import Checkpoint, checkpoint_name, load_meta, save_checkpoint
from utils.config import resolve_path, save_settings
from utils.errors import UserError
from utils.files import copy_file
from utils.paths import ROOT
from utils.text_files import read_text_file


def convert(
    source: Checkpoint,
    settings: Settings,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    merge: bool = False,
) -> Path:
    """Write `source`, with all that inference needs, to a new experiment folder; returns the new checkpoint's path.

    Weights become safetensors of `dtype`. With `merge`, `source` is an adapter, and is merged into its base. Raises
    UserError if the model is not complete, or the folder has a file that would be written.
    """
    if source.is_adapter and not merge:
        raise UserError(f"--input: {source.path} is an adapter; --merge writes it merged into its base")
    if merge and not source.is_adapter:
        raise UserError(f"--merge: {source.path} is no adapter; leave the flag out")
    check_new_folder(folder, settings, "--output")
    weights = load_model(source, settings).named_weights()
    # Tied weights stay one tensor.
    of_dtype = {weight.data_ptr(): weight.to(dtype) for weight in weights.values()}
    weights = {name: of_dtype[weight.data_ptr()] for name, weight in weights.items()}
    # The reference recipe records neither the stage nor the codec's fingerprint.
    return write_model(source, settings, folder, weights, load_meta(source))


def check_new_folder(folder: Path, settings: Settings, flag: str) -> None:
    """Raises UserError naming the flag if the folder has a file that `write_model` would write."""
    experiment = Experiment(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag}: {folder} is not a folder; choose another")
    codec = codec_class(settings.preprocess.acoustic_token_extractor)
    own_files = (experiment.args, experiment.symbols, experiment.lexicon, experiment.attention_heads)
    for path in (*own_files, experiment.codec(codec.file_name), experiment.checkpoints):
        if path.exists():
            raise UserError(f"{flag}: {folder} holds {path.name} of an experiment; choose another folder")


def write_model(
    source: Checkpoint, settings: Settings, folder: Path, weights: dict[str, Tensor], meta: dict[str, Any]
) -> Path:
    """Write weights to a new experiment folder, with all else that inference needs, under the name of `source`.

    Settings are completed, and the ids of the symbol table are written out. The codec's file or folder is copied from
    the experiment of `source`, or from where `preprocess.codec_checkpoint` names it. A lexicon and the choice of
    attention heads are copied too. Other files in the folder, such as a model card, stay. `meta` is what the checkpoint
    records beside its name. Raises UserError if the codec or the lexicon is missing.
    """
    experiment, origin = Experiment(folder), Experiment.of(source)
    codec = codec_class(settings.preprocess.acoustic_token_extractor)
    table = SymbolTable.load(origin.symbols)
    # Check everything before the folder is made.
    codec_file: Path | None = origin.codec(codec.file_name)
    if codec_file is None or not codec_file.exists():
        # A name on the hub stays one in the settings. SpeechRVQ's default weights are not copied either.
        is_named = settings.preprocess.codec_checkpoint is not None
        codec_file = codec.weights_file(settings.preprocess, ROOT) if is_named else None
        if codec_file is not None and not codec_file.exists():
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
        codec.copy_weights(codec_file, experiment.codec(codec.file_name))
    # They count for the checkpoint that they name, which keeps its name.
    if origin.attention_heads.is_file():
        copy_file(origin.attention_heads, experiment.attention_heads)
    # Weights that are written are those of a whole model.
    own = {key: value for key, value in meta.items() if key != "adapter"}
    return save_checkpoint(
        experiment.checkpoints,
        checkpoint_name(source.epoch, source.step, source.loss),
        weights=weights,
        state=None,
        meta=own | {"epoch": source.epoch, "step": source.step, "ends_epoch": True},
        rank_states=(),
    )
