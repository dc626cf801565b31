"""Neural and embedded audio codecs. A new one is a file here, a line in `CODECS` and its name in the schema."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from config.class_path import import_class
from config.schema import InferSettings, ModelSettings, PreprocessSettings
from processors.codecs.base import Codec
from utils.errors import UserError

CODECS = {
    "Encodec": "processors.codecs.encodec:Encodec",
    "Dac": "processors.codecs.dac:Dac",
    "Mimi": "processors.codecs.mimi:Mimi",
    "XCodec2": "processors.codecs.xcodec2:XCodec2",
    "MelRVQ": "processors.codecs.mel_rvq:MelRVQ",
    "SpeechRVQ": "processors.codecs.speech_rvq:SpeechRVQ",
}


def codec_class(name: str) -> type[Codec]:
    """The class of `preprocess.acoustic_token_extractor`; its module, and the libraries it needs, is imported now."""
    return import_class(CODECS[name])


def build_codec(settings: PreprocessSettings, own_file: Path | None, root: Path, device: torch.device) -> Codec:
    """The codec that `preprocess.acoustic_token_extractor` names, on `device`; see `Codec.open`.

    Raises UserError as `Codec.open` does, or if the settings have another sample rate than the codec.
    """
    name = settings.acoustic_token_extractor
    codec = codec_class(name).open(settings, own_file, root)
    if codec.sample_rate_hz != settings.sample_rate:
        right = codec.sample_rate_hz
        raise UserError(f"preprocess.sample_rate: {settings.sample_rate} is not the rate of {name}; set it to {right}")
    return codec.to(device)


def check_model(codec: Codec, settings: ModelSettings) -> None:
    """Raises UserError if the model does not have the codebooks of the codec."""
    if (codec.num_codebooks, codec.codebook_size) != (settings.num_quantizers, settings.audio_token_num):
        raise UserError(
            f"model.num_quantizers and model.audio_token_num must be the codec's, {codec.num_codebooks} and "
            f"{codec.codebook_size}"
        )


def with_vocoder(codec: Codec, settings: InferSettings, root: Path) -> Codec:
    """The codec, with the decoder that `infer.vocoder` names. Raises UserError if it cannot decode the codes."""
    if settings.vocoder == "codec":
        return codec
    from processors.codecs.vocos import EncodecVocos

    return EncodecVocos.wrap(codec, settings, root)


def prepare_codec(
    settings: PreprocessSettings,
    processed_dir: Path,
    root: Path,
    audio: Callable[[], Iterable[Tensor]],
    device: torch.device,
) -> Codec:
    """The codec for stage 1. If it must be fitted, it is fitted on the waveforms (N,) that `audio` gives.

    The fitted codec's file is kept in `processed_dir`.
    """
    kind = codec_class(settings.acoustic_token_extractor)
    if not kind.is_fitted:
        return build_codec(settings, None, root, device)
    path = processed_dir / kind.file_name
    kind.fit_to(path, settings, root, audio)
    return build_codec(settings, path, root, device)
