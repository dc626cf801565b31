"""Collects what a model on the hub has: all that inference needs, and nothing of the machine that trained it."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from config.schema import Settings
from models.experiment import Experiment
from processors.codecs import CODECS, codec_class
from processors.codecs.weights import find_weights
from processors.languages import AUTO, language_code
from processors.symbols import SymbolTable, language_of_symbol
from synthesis.convert import convert
from synthesis.voices import SUFFIX, Voice, check_name, codec_of, read_voice
from utils.checkpoint import META, Checkpoint, load_meta, load_weights, resolve_checkpoint
from utils.errors import UserError
from utils.files import copy_file, write_json
from utils.log import log
from utils.paths import ROOT

_META_KEYS = ("train_stage", "codec", "epoch", "step", "batch", "loss", "ends_epoch", "average_of")
# Of this machine or its network, at the start of a text or after a space.
_LOCAL_PATH = re.compile(r"(^|\s)(/|~|\.\.?[\\/]|[a-z]:[\\/]|\\\\|file:)", re.IGNORECASE)
# A user and a password stand before the @, a signature or a token after the ? or the #.
_SECRET_URL = re.compile(r"://\S*[@?#]")


def collect(source: Checkpoint, settings: Settings, folder: Path, voices: Sequence[str]) -> dict[str, Voice]:
    """Write a model, with all that inference needs, to a new folder; returns the named voices, which it has too.

    The weights keep their precision, and an adapter is merged into its base. Settings that are local paths are
    replaced. Raises UserError if the model is not complete, if a voice has no note of consent or no licence, or if
    another setting has a local path or a URL with credentials.
    """
    # Before the weights are written, which takes long.
    chosen = {name: _shareable_voice(Experiment.of(source).folder, name, codec_of(source)) for name in voices}
    is_half = not source.is_adapter and all(
        weight.dtype == torch.bfloat16 for weight in load_weights(source).values() if weight.is_floating_point()
    )
    convert(source, settings, folder, torch.bfloat16 if is_half else torch.float32, merge=source.is_adapter)
    written, experiment = resolve_checkpoint(folder, "--infer_expt_dir"), Experiment(folder)
    meta = load_meta(written)
    write_json(written.path / META, {key: meta[key] for key in _META_KEYS if key in meta}, indent=2)
    codec = codec_class(settings.preprocess.acoustic_token_extractor)
    content = json.loads(experiment.args.read_text(encoding="utf-8"))
    _remove_local_paths(content, has_codec=experiment.codec(codec.file_name).exists())
    # A setting that no rule above knows must not slip through.
    for key, value in _strings(content):
        if _LOCAL_PATH.search(value):
            raise UserError(f"{key}: the local path {value} is not shared; set another value with --set {key}=...")
        # The value itself stays out of the log.
        if _SECRET_URL.search(value):
            raise UserError(
                f"{key}: a URL with a user, a query or a fragment may hold credentials, and is not shared; set another "
                f"value with --set {key}=..."
            )
    write_json(experiment.args, content, indent=2)
    for name in chosen:
        copy_file(_voice_path(Experiment.of(source).folder, name), _voice_path(folder, name))
    return chosen


def replaced_patterns() -> list[str]:
    """Patterns of all that a model on the hub can have from an earlier push, such as a codec's file or folder.

    The model card is not among them, as every push has one.
    """
    experiment = Experiment(Path())
    codecs = [codec_class(name).file_name for name in CODECS]
    files = (experiment.args, experiment.symbols, experiment.lexicon, experiment.attention_heads)
    folders = [f"{name}/*" for name in (experiment.checkpoints.name, "voices", *codecs)]
    return [*(path.name for path in files), *codecs, *folders]


def languages_of(experiment: Experiment, settings: Settings) -> list[str]:
    """The ISO codes of the languages that an experiment speaks."""
    preprocess = settings.preprocess
    if preprocess.language != AUTO:
        return [language_code(preprocess.language)]
    found = [language_of_symbol(symbol) for symbol in SymbolTable.load(experiment.symbols).phones]
    return sorted({language_code(language) for language in found if language is not None})


def _voice_path(experiment: Path, name: str) -> Path:
    return experiment / "voices" / f"{name}{SUFFIX}"


def _shareable_voice(experiment: Path, name: str, codec: str | None) -> Voice:
    """A voice of the experiment's own folder. Those of the user's folder are never shared."""
    path = _voice_path(experiment, check_name(name))
    if not path.is_file():
        raise UserError(f"--voice: {path} is missing; bins/voices.py add --voices_dir makes a voice of the experiment")
    voice = read_voice(path)
    for note in ("consent", "licence"):
        if not getattr(voice, note).strip():
            raise UserError(f"--voice: {name} has no note of {note}, so it is not shared; make it again with --{note}")
    if codec not in (None, voice.codec):
        raise UserError(f"--voice: {name} was made with another codec than the model's; make it again")
    return voice


def _remove_local_paths(content: dict[str, Any], has_codec: bool) -> None:
    """Replace the settings that are local paths, in the content of `args.json`."""
    content["dataset_path"] = {name: f"data/{name}" for name in content["dataset"]}
    content["log_dir"] = "ckpts/tts"
    preprocess, infer = content["preprocess"], content["infer"]
    preprocess["processed_dir"], preprocess["symbol_table"] = "data", None
    # The codec's file in the folder counts.
    if has_codec:
        preprocess["codec_checkpoint"] = None
    for key in ("asr_model", "vocoder_checkpoint"):
        if infer[key] is not None and isinstance(find_weights(infer[key], ROOT), Path):
            log.warning("infer.%s: %s may be on this machine alone, and is left out", key, infer[key])
            infer[key] = None
            if key == "vocoder_checkpoint":
                infer["vocoder"] = "codec"


def _strings(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in the content of a JSON file, with its dotted key."""
    if isinstance(content, str):
        yield key, content
    elif isinstance(content, dict):
        for name, value in content.items():
            yield from _strings(value, f"{key}.{name}" if key else name)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value, key)
