"""What the programs that speak build first: a synthesizer from an experiment's folder."""

from collections.abc import Sequence
from pathlib import Path

from config.schema import Settings
from models.valle.experiment import MEASURED_LIMITS, Experiment
from models.valle.load import load_synthesizer
from models.valle.synthesizer import Synthesizer
from processors.codecs import build_codec
from processors.symbols import SymbolTable
from processors.text import TextTokenizer, build_phonemizer
from utils.checkpoint import resolve_checkpoint
from utils.cli import ROOT
from utils.config import load_settings
from utils.device import pick_device


def build_voice(
    folder: Path, flag: str, overrides: Sequence[str] = (), config: Path | None = None
) -> tuple[Synthesizer, Experiment]:
    """The newest pair of an experiment, or one checkpoint, with its own settings, codec and symbols.

    The infer section comes from `config` where it is given, and `overrides` change it. Raises UserError naming the
    flag where there is no pair.
    """
    source = resolve_checkpoint(folder, flag)
    experiment = Experiment.of(source)
    settings = experiment.settings(overrides)
    if config is not None:
        given = load_settings(config, Settings, overrides, root=ROOT)
        # What another config leaves open is as the experiment's corpus was measured.
        measured = {
            name: getattr(settings.infer, name) for name in MEASURED_LIMITS if getattr(given.infer, name) is None
        }
        settings = settings.model_copy(update={"infer": given.infer.model_copy(update=measured)})
    device = pick_device()
    preprocess = settings.preprocess
    codec = build_codec(preprocess, experiment.codec(preprocess.acoustic_token_extractor), ROOT, device)
    tokenizer = TextTokenizer(
        build_phonemizer(preprocess.phone_extractor, preprocess.language),
        SymbolTable.load(experiment.symbols),
        preprocess.add_blank,
    )
    return load_synthesizer(source, settings, codec, tokenizer, device), experiment
