"""EnCodec (arXiv 2210.13438), 24 kHz at 6 kbps, through the encodec package or through transformers."""

import hashlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from config.schema import PreprocessSettings
from processors.codecs.base import Codec
from processors.codecs.weights import download_weights, find_weights, read_tensors, unusable
from utils.errors import UserError
from utils.files import atomic_write
from utils.hub import quiet_transformers

Backend = Literal["auto", "encodec", "transformers"]
WEIGHTS_URL = "https://dl.fbaipublicfiles.com/encodec/v0/encodec_24khz-d7cc33bc.th"
SAMPLE_RATE_HZ, HOP_SAMPLES = 24000, 320
# 6 kbps.
NUM_CODEBOOKS, CODEBOOK_SIZE = 8, 1024
# The widest convolutions over frames use six frames of reflection padding, which needs seven frames of input.
MIN_BATCH_FRAMES = 7
_FOLDER_FILE = "model.safetensors"
_NAME = "EnCodec's 24 kHz model"
_ADVICE = (
    "give encodec_24khz-d7cc33bc.th, a folder with facebook/encodec_24khz, or null to download the weights, or set "
    "preprocess.acoustic_token_extractor to MelRVQ"
)


class Encodec(Codec):
    """The 24 kHz model at 6 kbps: 8 codebooks of 1024 codes.

    `model` is the EncodecModel of the encodec package or of transformers. Both compute the same.
    """

    file_name = "encodec.th"

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.is_package = hasattr(model.quantizer, "vq")
        layers = model.quantizer.vq.layers if self.is_package else model.quantizer.layers
        self.layers = layers[:NUM_CODEBOOKS]
        self.sample_rate_hz = SAMPLE_RATE_HZ
        self.hop_samples = HOP_SAMPLES
        self.num_codebooks = NUM_CODEBOOKS
        self.codebook_size = CODEBOOK_SIZE
        self.device = next(model.parameters()).device

    @classmethod
    def open(cls, settings: PreprocessSettings, own_file: Path | None, root: Path) -> "Encodec":
        source: Path | str | None = own_file
        if own_file is None or not own_file.exists():
            checkpoint = settings.codec_checkpoint
            source = None if checkpoint is None else find_weights(checkpoint, root)
        return cls.load(source, settings.encodec_backend)

    @classmethod
    def weights_file(cls, settings: PreprocessSettings, root: Path) -> Path | None:
        checkpoint = settings.codec_checkpoint
        source = None if checkpoint is None else find_weights(checkpoint, root)
        return source if isinstance(source, Path) else None

    @classmethod
    def copy_weights(cls, source: Path, target: Path) -> None:
        if source.is_dir():
            # One file for an experiment, whichever format the weights came in.
            with atomic_write(target) as temporary:
                torch.save(read_weights(source), temporary)
        else:
            super().copy_weights(source, target)

    @classmethod
    def load(cls, source: Path | str | None, backend: Backend = "auto") -> "Encodec":
        """The model with weights from a local file or folder, or from the hub; None downloads them into torch hub's
        cache, once.

        Raises UserError if the weights, the download or the backend cannot be used.
        """
        model = build_encodec(backend)
        weights = read_weights(source)
        try:
            own = {name: canonical_name(name) for name in model.state_dict()}
            if unknown := weights.keys() - set(own.values()):
                raise ValueError(f"unknown weight {min(unknown)}")
            model.load_state_dict({name: weights[canonical] for name, canonical in own.items()})
        except (KeyError, ValueError, RuntimeError) as error:
            raise unusable("preprocess.codec_checkpoint", source or WEIGHTS_URL, _NAME, error, _ADVICE) from error
        return cls(model)

    def to(self, device: torch.device | str) -> "Encodec":
        self.device = torch.device(device)
        self.model.to(self.device)
        return self

    @property
    def vectors(self) -> Tensor:
        return torch.stack([layer.codebook if self.is_package else layer.codebook.embed for layer in self.layers])

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for part in [self.model.encoder, *self.layers]:
            for name, tensor in part.state_dict().items():
                digest.update((name if self.is_package else _package_name(name)).encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _encode(self, audio: Tensor, codes_lens: Tensor) -> Tensor:
        codes = torch.zeros(len(audio), audio.shape[1] // self.hop_samples, self.num_codebooks, device=self.device)
        codes = codes.long()
        for rows, num_frames in _row_groups(codes_lens):
            residual = self.model.encoder(audio[rows, None, : num_frames * self.hop_samples])
            for index, layer in enumerate(self.layers):
                found = layer.encode(residual)
                residual = residual - layer.decode(found)
                codes[rows, :num_frames, index] = found
        return codes

    def _decode(self, codes: Tensor, codes_lens: Tensor) -> Tensor:
        return self._decode_vectors(self.model.quantizer.decode(codes.permute(2, 0, 1)).transpose(1, 2), codes_lens)

    def _decode_vectors(self, vectors: Tensor, codes_lens: Tensor) -> Tensor:
        audio = torch.zeros(len(vectors), vectors.shape[1] * self.hop_samples, device=self.device)
        for rows, num_frames in _row_groups(codes_lens):
            num_samples = num_frames * self.hop_samples
            decoded = self.model.decoder(vectors[rows, :num_frames].transpose(1, 2))
            audio[rows, :num_samples] = decoded[:, 0, :num_samples]
        return audio


def _row_groups(codes_lens: Tensor) -> Iterator[tuple[list[int], int]]:
    """Rows that may share a batch, with the frames of the longest; rows without frames are left out.

    Rows shorter than `MIN_BATCH_FRAMES` are encoded alone: padding would change their reflection.
    """
    lens = codes_lens.tolist()
    for row, num_frames in enumerate(lens):
        if 0 < num_frames < MIN_BATCH_FRAMES:
            yield [row], num_frames
    rows = [row for row, num_frames in enumerate(lens) if num_frames >= MIN_BATCH_FRAMES]
    if rows:
        yield rows, max(lens[row] for row in rows)


def build_encodec(backend: Backend = "auto") -> Any:
    """An untrained 24 kHz model of the encodec package or of transformers; auto: of the package if it is installed.

    Raises UserError if the package is asked for and not installed.
    """
    if backend != "transformers":
        try:
            from encodec import EncodecModel
        except ImportError as error:
            if backend == "encodec":
                raise UserError(
                    f"preprocess.encodec_backend: the package encodec cannot be imported ({error}); pip install "
                    "encodec==0.1.1, or set it to transformers, which gives the same codes"
                ) from error
        else:
            with warnings.catch_warnings():
                # The package uses a deprecated form of torch's weight norm.
                warnings.simplefilter("ignore", FutureWarning)
                return EncodecModel.encodec_model_24khz(pretrained=False)
    quiet_transformers()
    from transformers import EncodecConfig
    from transformers import EncodecModel as LibraryModel

    # The defaults of the configuration are those of the 24 kHz model.
    return LibraryModel(EncodecConfig())


def read_weights(source: Path | str | None) -> dict[str, Tensor]:
    """The weights by `canonical_name`, from where `Encodec.load` takes them. Raises UserError as it does."""
    try:
        if source is None:
            found = torch.hub.load_state_dict_from_url(
                WEIGHTS_URL, map_location="cpu", check_hash=True, weights_only=True
            )
        else:
            path = download_weights(source, _FOLDER_FILE) if isinstance(source, str) else source
            found = read_tensors(path / _FOLDER_FILE if path.is_dir() else path)
    except Exception as error:  # A damaged file or a failed download raises many types.
        if source is None:
            raise UserError(
                f"EnCodec's weights could not be downloaded ({type(error).__name__}): connect once, or set "
                "preprocess.codec_checkpoint to a local copy of encodec_24khz-d7cc33bc.th, or "
                "preprocess.acoustic_token_extractor to MelRVQ"
            ) from error
        raise unusable("preprocess.codec_checkpoint", source, _NAME, error, _ADVICE) from error
    return {canonical_name(name): tensor for name, tensor in found.items()}


def canonical_name(name: str) -> str:
    """The name that transformers' model has for a weight of the encodec package's model, or of an older release's."""
    name = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", name)
    name = re.sub(r"\.(conv|convtr)\.\1\.", ".conv.", name)
    name = name.replace("quantizer.vq.layers.", "quantizer.layers.").replace("._codebook.", ".codebook.")
    return re.sub(r"\.weight_([gv])$", lambda of: f".parametrizations.weight.original{'gv'.index(of[1])}", name)


def _package_name(name: str) -> str:
    """The package's name for a weight of transformers' encoder or codebooks: fingerprints were made from it."""
    name = re.sub(r"^layers\.", "model.", name)
    name = re.sub(r"\bconv\.", "conv.conv.", name)
    name = re.sub(r"parametrizations\.weight\.original([01])$", lambda of: f"weight_{'gv'[int(of[1])]}", name)
    return re.sub(r"^codebook\.", "_codebook.", name)
