"""Waveform <-> codec codes."""

from pathlib import Path

import torch

from config.schema import PreprocessSettings
from processors.codecs.base import Codec
from processors.codecs.mel_rvq import MelRVQ
from utils.config import resolve_path
from utils.errors import UserError


def build_codec(settings: PreprocessSettings, own_file: Path | None, root: Path, device: torch.device) -> Codec:
    """The codec that `preprocess.acoustic_token_extractor` names, ready on `device`.

    Args:
        own_file: MelRVQ's codebooks as stage 1 fitted them, or weights of Encodec that go before the settings' where
            the file is there.
        root: where a relative `preprocess.codec_checkpoint` starts.

    Raises:
        UserError: weights or codebooks are missing or damaged, or were made for other settings.
    """
    codec: Codec
    if settings.acoustic_token_extractor == "MelRVQ":
        codec = _load_mel_rvq(settings, own_file)
    else:
        # Only those who use it pay for its import.
        from processors.codecs.encodec import Encodec

        weights = None if settings.codec_checkpoint is None else resolve_path(settings.codec_checkpoint, root)
        codec = Encodec.load(own_file if own_file is not None and own_file.is_file() else weights)
    if codec.sample_rate_hz != settings.sample_rate:
        name, right = settings.acoustic_token_extractor, codec.sample_rate_hz
        raise UserError(f"preprocess.sample_rate: {settings.sample_rate} is not the rate of {name}; set it to {right}")
    return codec.to(device)


def _load_mel_rvq(settings: PreprocessSettings, fitted_path: Path | None) -> MelRVQ:
    if fitted_path is None:
        raise UserError("preprocess.acoustic_token_extractor: MelRVQ has no fitted codebooks yet; run stage 1")
    codec = MelRVQ.load(fitted_path)
    for key in ("frame_rate_hz", "num_mels", "num_codebooks"):
        wanted, fitted = getattr(settings.mel_rvq, key), getattr(codec.settings, key)
        if wanted != fitted:
            raise UserError(
                f"preprocess.mel_rvq.{key}: {wanted:g} was asked for and {fitted_path} was fitted with {fitted:g}; "
                "set it back, or run stage 1 into another preprocess.processed_dir"
            )
    codec.settings = settings.mel_rvq
    return codec
