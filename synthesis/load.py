"""Loads a synthesizer from an experiment's folder."""

from collections.abc import Sequence
from pathlib import Path

import torch

from config.schema import Settings
from models.experiment import (
    MEASURED_LIMITS,
    Experiment,
    check_codec,
    load_model,
    longest_sequences,
    reference_limits,
)
from processors.codecs import build_codec, codec_class
from processors.codecs.base import Codec
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from synthesis.synthesizer import Synthesizer
from utils.checkpoint import Checkpoint, resolve_checkpoint
from utils.config import load_settings
from utils.device import pick_device, pick_inference_precision
from utils.paths import ROOT


def load_experiment(
    folder: Path, flag: str, overrides: Sequence[str] = (), config: Path | None = None
) -> tuple[Synthesizer, Experiment]:
    """The newest model of an experiment, or one checkpoint, with its own settings, codec and symbols.

    The infer section comes from `config` if it is given, and `overrides` change it. Raises UserError naming the flag if
    there is no complete model.
    """
    source = resolve_checkpoint(folder, flag)
    experiment = Experiment.of(source)
    settings = experiment.settings(overrides)
    if config is not None:
        given = load_settings(config, Settings, overrides, root=ROOT)
        # Limits that the config leaves null are those measured on the experiment's corpus.
        measured = {
            name: getattr(settings.infer, name) for name in MEASURED_LIMITS if getattr(given.infer, name) is None
        }
        settings = settings.model_copy(update={"infer": given.infer.model_copy(update=measured)})
    device = pick_device()
    preprocess = settings.preprocess
    codec = build_codec(
        preprocess, experiment.codec(codec_class(preprocess.acoustic_token_extractor).file_name), ROOT, device
    )
    tokenizer = TextTokenizer.from_settings(preprocess, SymbolTable.load(experiment.symbols))
    # Load the frontend now: a language that it does not have is an error at once, not at the first text.
    _ = tokenizer.phonemizer
    return load_synthesizer(source, settings, codec, tokenizer, device), experiment


def load_synthesizer(
    source: Checkpoint, settings: Settings, codec: Codec, tokenizer: TextTokenizer, device: torch.device
) -> Synthesizer:
    """A synthesizer for a checkpoint. Raises UserError if the model is incomplete or was trained with another codec."""
    check_codec(source, codec.fingerprint())
    model = load_model(source, settings)
    model.prepare_inference(pick_inference_precision(settings.infer.precision, device), device)
    # If the corpus was not measured, its utterances are at most `max_duration` long.
    longest = longest_sequences(settings.preprocess.max_duration, settings.train)
    unset = {name: value for name, value in longest.items() if getattr(settings.infer, name) is None}
    infer = settings.infer.model_copy(update=unset)
    synthesizer = Synthesizer(model, codec, tokenizer, infer, device)
    synthesizer.language = settings.preprocess.language
    if source.is_reference:
        synthesizer.follow_reference(reference_limits(settings))
    return synthesizer
