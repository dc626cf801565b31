"""A small learned codec for speech at 16 kHz: its weights are trained by `bins/train_codec.py`."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from config.codec_schema import SpeechRVQSettings
from config.schema import PreprocessSettings
from processors.codecs.base import Codec
from processors.codecs.speech_net import SpeechNet
from utils.errors import UserError, first_line
from utils.files import atomic_write
from utils.paths import PRETRAINED

FORMAT = "vallet-speech-rvq-1"


class SpeechRVQ(Codec):
    """Residual codebooks between convolutional networks; the waveform comes from magnitudes and phases."""

    file_name = "speech_rvq.safetensors"

    def __init__(self, net: SpeechNet, settings: SpeechRVQSettings, num_codebooks: int | None = None) -> None:
        """With `num_codebooks` only the first of the net's codebooks are used. Raises UserError if it has fewer."""
        if (num_codebooks or 0) > settings.num_codebooks:
            raise UserError(
                f"preprocess.speech_rvq.num_codebooks: {num_codebooks} is more than the {settings.num_codebooks} "
                f"codebooks of the codec; set it to one of 2 to {settings.num_codebooks}, or to null for all"
            )
        self.net = net.eval().requires_grad_(False)
        self.settings = settings
        self.sample_rate_hz = settings.sample_rate_hz
        self.hop_samples = net.hop_samples
        self.num_codebooks = num_codebooks or settings.num_codebooks
        self.codebook_size = settings.codebook_size
        self.device = net.codebooks.device
        net.codebooks = net.codebooks[: self.num_codebooks]

    @classmethod
    def weights_file(cls, settings: PreprocessSettings, root: Path) -> Path:
        return super().weights_file(settings, root) or PRETRAINED / cls.file_name

    @classmethod
    def open(cls, settings: PreprocessSettings, own_file: Path | None, root: Path) -> "SpeechRVQ":
        path = own_file if own_file is not None and own_file.is_file() else cls.weights_file(settings, root)
        return cls.load(path, settings.speech_rvq.num_codebooks)

    @classmethod
    def load(cls, path: Path, num_codebooks: int | None = None) -> "SpeechRVQ":
        """Read a file that `save_net` wrote. Raises UserError if it is missing, or is not one."""
        if not path.is_file():
            raise UserError(f"preprocess.codec_checkpoint: {path} is not a file; give the weights of SpeechRVQ")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise ValueError("another format")
                settings = SpeechRVQSettings.model_validate_json(header["settings"])
                net = SpeechNet(settings)
                net.load_state_dict({name: tensor.float() for name, tensor in load(path.read_bytes()).items()})
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(
                f"preprocess.codec_checkpoint: {path} does not hold the weights of SpeechRVQ ({first_line(error)})"
            ) from error
        return cls(net, settings, num_codebooks)

    def to(self, device: torch.device | str) -> "SpeechRVQ":
        self.device = torch.device(device)
        self.net.to(self.device)
        return self

    @property
    def vectors(self) -> Tensor:
        return self.net.codebooks

    def fingerprint(self) -> str:
        # The decoder may be trained further without making the codes invalid.
        settings = self.settings
        digest = hashlib.sha256(f"{self.sample_rate_hz} {self.hop_samples} {settings.num_mels}".encode())
        for name, tensor in [*self.net.encoder.state_dict().items(), ("codebooks", self.net.codebooks)]:
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _encode(self, audio: Tensor, codes_lens: Tensor) -> Tensor:
        return self.net.quantize(self.net.encoder(audio, codes_lens))

    def _decode(self, codes: Tensor, codes_lens: Tensor) -> Tensor:
        return self.net.decoder(self.net.dequantize(codes), codes_lens)

    def _decode_vectors(self, vectors: Tensor, codes_lens: Tensor) -> Tensor:
        return self.net.decoder(vectors, codes_lens)


def save_net(net: SpeechNet, settings: SpeechRVQSettings, path: Path) -> None:
    """Write a safetensors file in bf16 with the settings in its header, atomically; the codebooks stay in fp32."""
    header = {"format": FORMAT, "settings": settings.model_dump_json()}
    tensors = {
        name: tensor.detach().cpu().contiguous().to(torch.float32 if name == "codebooks" else torch.bfloat16)
        for name, tensor in net.state_dict().items()
    }
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata=header)
