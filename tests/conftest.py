"""What the tests share: tiny settings, models and made-up utterances."""

from pathlib import Path

import numpy as np
import pytest
import torch

from config.schema import InferSettings, ModelSettings, PreprocessSettings, Section, TrainSettings
from processors.manifest import Utterance
from utils.config import load_settings

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


class Defaults(Section):
    """What `config/valle.json` and its bases hold: an experiment without its corpora."""

    model_type: str
    log_dir: str
    preprocess: PreprocessSettings
    model: ModelSettings
    train: TrainSettings
    infer: InferSettings


# Tiny models run no faster on many threads.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def tiny_model(**changes) -> ModelSettings:
    settings = {
        "decoder_dim": 32,
        "nhead": 2,
        "num_decoder_layers": 2,
        "norm_first": True,
        "add_prenet": False,
        "dropout": 0.0,
        "prefix_mode": 1,
        "share_embedding": True,
        "nar_scale_factor": 1.0,
        "prepend_bos": False,
        "num_quantizers": 4,
        "text_token_num": 32,
        "audio_token_num": 20,
    }
    return ModelSettings(**{**settings, **changes})


def made_up_utterances(num: int, num_quantizers: int = 4, num_codes: int = 20, seed: int = 0) -> list[Utterance]:
    """Utterances of three speakers with random phones (a to h) and codes."""
    rng = np.random.default_rng(seed)
    return [
        Utterance(
            id=f"utterance_{index:04d}",
            text="made up",
            phones=tuple(rng.choice(list("abcdefgh"), rng.integers(3, 12))),
            speaker=f"speaker_{index % 3}",
            codes=rng.integers(0, num_codes, (int(rng.integers(8, 40)), num_quantizers)).astype(np.int16),
        )
        for index in range(num)
    ]


def defaults() -> Defaults:
    return load_settings(ROOT / "config" / "valle.json", Defaults, root=ROOT)


def tiny_infer(**changes) -> InferSettings:
    return InferSettings(**{**defaults().infer.model_dump(), **changes})


def tiny_train(**changes) -> TrainSettings:
    settings = defaults().train.model_dump()
    settings |= {"dataloader": {"num_worker": 0}, "precision": "fp32", "max_tokens": 200, "tracker": []}
    return TrainSettings(**{**settings, **changes})
