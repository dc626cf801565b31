"""Waveform <-> codec codes. A codec of your own is one file here, a line in `CODECS` and its name in the schema."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from config.class_path import import_class
from config.schema import PreprocessSettings
from processors.codecs.base import Codec
from utils.errors import UserError

CODECS = {
    "Encodec": "processors.codecs.encodec:Encodec",
    "MelRVQ": "processors.codecs.mel_rvq:MelRVQ",
}


def codec_class(name: str) -> type[Codec]:
    """The class of `preprocess.acoustic_token_extractor`; its module, and what that needs, is imported now."""
    return import_class(CODECS[name])


def build_codec(settings: PreprocessSettings, own_file: Path | None, root: Path, device: torch.device) -> Codec:
    """The codec that `preprocess.acoustic_token_extractor` names, ready on `device`; see `Codec.open`.

    Raises:
        UserError: as `Codec.open`, or where the codec has another sample rate than the settings.
    """
    name = settings.acoustic_token_extractor
    codec = codec_class(name).open(settings, own_file, root)
    if codec.sample_rate_hz != settings.sample_rate:
        right = codec.sample_rate_hz
        raise UserError(f"preprocess.sample_rate: {settings.sample_rate} is not the rate of {name}; set it to {right}")
    return codec.to(device)


def prepare_codec(
    settings: PreprocessSettings,
    processed_dir: Path,
    root: Path,
    audio: Callable[[], Iterable[torch.Tensor]],
    device: torch.device,
) -> Codec:
    """The codec for stage 1, fitted first where it is one that is fitted: then its file is kept in `processed_dir`.

    Args:
        audio: gives training waveforms (N,), to fit on.
    """
    kind = codec_class(settings.acoustic_token_extractor)
    if not kind.is_fitted:
        return build_codec(settings, None, root, device)
    path = processed_dir / kind.file_name
    kind.fit_to(path, settings, root, audio)
    return build_codec(settings, path, root, device)
