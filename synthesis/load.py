"""Loads a synthesizer from an experiment's folder."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from config.schema import PreprocessSettings, Settings
from models.experiment import (
    MEASURED_LIMITS,
    Experiment,
    check_codec,
    check_guidance,
    load_model,
    longest_sequences,
    reference_limits,
)
from processors.codecs import build_codec, codec_class, with_vocoder
from processors.codecs.base import Codec
from processors.languages import AUTO, language_name
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from synthesis.aligner import TextAligner
from synthesis.candidates import check_candidates
from synthesis.heads import find_heads
from synthesis.synthesizer import Synthesizer
from utils.checkpoint import Checkpoint, resolve_checkpoint
from utils.config import load_settings
from utils.device import pick_device, pick_inference_precision
from utils.errors import UserError
from utils.paths import PRETRAINED, ROOT


def find_pretrained(instead: str) -> Path:
    """The folder of the pretrained pair. Raises UserError, which says what to give `instead`, if it is not there."""
    if not (PRETRAINED / "args.json").is_file():
        raise UserError(f"this installation has no pretrained pair ({PRETRAINED}); {instead}")
    return PRETRAINED


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
    codec = with_vocoder(codec, settings.infer, ROOT)
    tokenizer = TextTokenizer.from_settings(preprocess, SymbolTable.load(experiment.symbols))
    # Load the frontends now: a language that they do not have is an error at once, not at the first text.
    for language in tokenizer.languages or ("",):
        tokenizer.reader(language)
    return load_synthesizer(source, settings, codec, tokenizer, device), experiment


def _languages(settings: PreprocessSettings, tokenizer: TextTokenizer) -> list[str]:
    """The languages that an experiment was trained on; first that of the first corpus that has one in the settings."""
    if settings.language != AUTO:
        return [language_name(settings.language)]
    first = [language_name(language) for language in settings.dataset_languages.values()]
    return [*dict.fromkeys(language for language in [*first, *tokenizer.languages] if language in tokenizer.languages)]


def load_synthesizer(
    source: Checkpoint, settings: Settings, codec: Codec, tokenizer: TextTokenizer, device: torch.device
) -> Synthesizer:
    """A synthesizer for a checkpoint. Raises UserError if the model is incomplete or was trained with another codec."""
    check_codec(source, codec.fingerprint())
    check_guidance(settings)
    model = load_model(source, settings)
    model.prepare_inference(pick_inference_precision(settings.infer.precision, device), device)
    # If the corpus was not measured, its utterances are at most `max_duration` long.
    longest = longest_sequences(settings.preprocess.max_duration, settings.train)
    unset = {name: value for name, value in longest.items() if getattr(settings.infer, name) is None}
    infer = settings.infer.model_copy(update=unset)
    check_candidates(model, infer)
    synthesizer = Synthesizer(model, codec, tokenizer, infer, device)
    if infer.word_times and model.attention_heads:
        search = partial(find_heads, model, codec, tokenizer, source, settings)
        synthesizer.aligner = TextAligner(tokenizer, codec.frame_rate_hz, search)
    synthesizer.languages = _languages(settings.preprocess, tokenizer)
    synthesizer.phone_extractor = settings.preprocess.phone_extractor
    if source.is_reference:
        synthesizer.follow_reference(reference_limits(settings))
    return synthesizer
