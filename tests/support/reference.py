"""Experiment folders as the reference recipe leaves them, at tiny size, with random weights."""

from pathlib import Path

import torch
from torch import Tensor

from config.schema import ValleSettings
from models.valle.valle import VALLE

# The reference recipe's own order and ids, which do not count; `<eps>` is among its phones.
SYMBOLS = ("<eps>", "!", ",", ".", "?", "_", *"abcdefghijklmnopqrstuvwxyz", "ɪ", "ʌ", "iː", "ə", "ð", "ɹ")
ARGS = """{
    // As a model is released: trailing commas, keys of other versions, and few of the defaults.
    "base_config": "config/valle.json",
    "dataset": ["LibriTTS",],
    "exp_name": "released",
    "model": {
        "decoder_dim": 32,
        "nhead": 2,
        "num_decoder_layers": 2,
        "prefix_mode": %d,
        "text_token_num": 128,
        "scaling_xformers": false,
    },
    "preprocess": {"extract_phoneme": true, "sample_rate": 24000, "acoustic_token_extractor": "MelRVQ", %s},
    "train": {"max_epoch": 20, "ddp": true,},
}
"""


class SilentCodec:
    """EnCodec's frame rate without its weights: for what never comes to a sound."""

    sample_rate_hz = 24000
    num_codebooks = 8
    codebook_size = 1024
    frame_rate_hz = 75.0

    def encode(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def decode(self, codes: Tensor, codes_lens: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return "silent"

    def to(self, device: torch.device) -> "SilentCodec":
        return self


def pair_settings(**changes: object) -> ValleSettings:
    """The size that `ARGS` says, with changes."""
    settings = ValleSettings(
        decoder_dim=32,
        nhead=2,
        num_decoder_layers=2,
        norm_first=True,
        add_prenet=False,
        dropout=0.1,
        prefix_mode=1,
        share_embedding=True,
        nar_scale_factor=1.0,
        prepend_bos=False,
        group_size=1,
        num_quantizers=8,
        text_token_num=128,
        audio_token_num=1024,
    )
    return settings.model_copy(update=changes)


def reference_model(prefix_mode: int = 1) -> VALLE:
    torch.manual_seed(0)
    return VALLE(pair_settings(prefix_mode=prefix_mode)).eval()


def write_reference(folder: Path, prefix_mode: int = 1, preprocess: str = "") -> dict[str, Tensor]:
    """An experiment of the reference recipe with one checkpoint; returns its weights."""
    weights = {name: value.clone() for name, value in reference_model(prefix_mode).named_weights().items()}
    checkpoint = folder / "checkpoint" / "epoch-0003_step-0000900_loss-2.500000"
    checkpoint.mkdir(parents=True)
    (folder / "args.json").write_text(ARGS % (prefix_mode, preprocess))
    (folder / "symbols.dict").write_text("".join(f"{symbol} {index}\n" for index, symbol in enumerate(SYMBOLS)))
    torch.save(weights, checkpoint / "pytorch_model.bin")
    return weights
