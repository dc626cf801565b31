"""Codecs of the transformers library (Apache-2.0), with weights from a folder in its format or from the hub."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from config.schema import PreprocessSettings
from processors.codecs.base import Codec
from processors.codecs.weights import check_finite, download_weights, find_weights, unusable
from utils.errors import UserError
from utils.files import copy_folder
from utils.hub import quiet_transformers

MAX_CODEBOOKS, MAX_CODEBOOK_SIZE, MAX_RATE_HZ = 128, 2**17, 192000
_FILES = ("*.json", "*.safetensors")
RowGroup = tuple[list[int], Tensor]


class PretrainedCodec(Codec):
    """A codec model of transformers. A subclass says what its sizes are, and how rows are coded together."""

    library_class: ClassVar[str]
    """The class in transformers."""
    model_type: ClassVar[str]
    """The `model_type` in the folder's config.json."""
    size_keys: ClassVar[tuple[str, ...]] = ("codebook_size", "sampling_rate")
    """Entries of config.json that must be plausible before a model is built from it."""

    def __init__(self, model: Any) -> None:
        """A subclass sets `hop_samples`, `num_codebooks` and `codebook_size`."""
        self.model = model.eval().requires_grad_(False)
        self.sample_rate_hz = int(model.config.sampling_rate)
        self.device = next(model.parameters()).device

    @classmethod
    @abstractmethod
    def default_weights(cls, settings: PreprocessSettings) -> str:
        """The name on the hub of the usual weights. Raises UserError if there are none for the sample rate."""

    @classmethod
    def open(cls, settings: PreprocessSettings, own_file: Path | None, root: Path) -> "PretrainedCodec":
        source: Path | str | None = own_file
        if own_file is None or not own_file.exists():
            source = find_weights(settings.codec_checkpoint or cls.default_weights(settings), root)
        assert source is not None
        codec = cls(cls.load_model(source))
        if settings.num_codebooks is not None:
            codec.keep_codebooks(settings.num_codebooks)
        return codec

    @classmethod
    def weights_file(cls, settings: PreprocessSettings, root: Path) -> Path | None:
        source = None if settings.codec_checkpoint is None else find_weights(settings.codec_checkpoint, root)
        return source if isinstance(source, Path) else None

    @classmethod
    def copy_weights(cls, source: Path, target: Path) -> None:
        copy_folder(source, target, _FILES)

    @classmethod
    def load_model(cls, source: Path | str) -> Any:
        """The library's model in fp32. Raises UserError if the folder or the download is not one, or is damaged."""
        quiet_transformers()
        import transformers

        kind = getattr(transformers, cls.library_class, None)
        if kind is None:
            raise UserError(
                f"preprocess.acoustic_token_extractor: transformers {transformers.__version__} has no "
                f"{cls.library_class}; pip install --upgrade transformers, which needs Python 3.11 or newer"
            )
        try:
            folder = download_weights(source, *_FILES) if isinstance(source, str) else source
            if not folder.is_dir():
                raise NotADirectoryError("not a folder with config.json and model.safetensors")
            cls._check_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
            # Weights in a pickle are not read: they could run code.
            model, report = kind.from_pretrained(
                str(folder), dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
            for trouble in ("missing_keys", "mismatched_keys"):
                if names := sorted(map(str, report[trouble])):
                    raise ValueError(f"{trouble.replace('_', ' ')}: {names[0]}")
            check_finite(model.state_dict())
        except Exception as error:  # A damaged file or a failed download raises many types.
            advice = f"give a folder with config.json and model.safetensors of {cls.__name__}, or a name on the hub"
            raise unusable("preprocess.codec_checkpoint", source, cls.__name__, error, advice) from error
        return model

    @classmethod
    def _check_config(cls, content: dict[str, Any]) -> None:
        """Raises ValueError for another model's configuration, or sizes that no codec has."""
        if content.get("model_type") != cls.model_type:
            raise ValueError(f"config.json is of the model_type {content.get('model_type')!r}")
        limits = {"sampling_rate": MAX_RATE_HZ, "codebook_size": MAX_CODEBOOK_SIZE}
        for key in cls.size_keys:
            value, most = content.get(key, 1), limits.get(key, MAX_CODEBOOKS)
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"{key} of config.json is {value!r}; it must lie between 1 and {most}")

    def keep_codebooks(self, num_codebooks: int) -> None:
        """Use only the first codebooks. Raises UserError if there are fewer."""
        if num_codebooks > self.num_codebooks:
            raise UserError(
                f"preprocess.num_codebooks: {num_codebooks} is more than the {self.num_codebooks} codebooks of "
                f"{type(self).__name__}"
            )
        self.num_codebooks = num_codebooks

    def to(self, device: torch.device | str) -> "PretrainedCodec":
        self.device = torch.device(device)
        self.model.to(self.device)
        return self

    def fingerprint(self) -> str:
        sizes = self.sample_rate_hz, self.hop_samples, self.num_codebooks, self.codebook_size
        digest = hashlib.sha256(f"{type(self).__name__} {sizes}".encode())
        # Releases of the library name and order the weights differently, so that neither can count.
        parts = []
        for tensor in self.coding_weights():
            part = hashlib.sha256(str(tuple(tensor.shape)).encode())
            part.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            parts.append(part.digest())
        for found in sorted(parts):
            digest.update(found)
        return digest.hexdigest()

    @abstractmethod
    def coding_weights(self) -> Iterator[Tensor]:
        """The weights that the codes depend on."""

    def row_groups(self, codes_lens: Tensor) -> Iterator[RowGroup]:
        """Rows that are coded together, with their lengths (b,) in frames; rows without frames are left out.

        Here rows of one length, as a network whose frames depend on later ones would read another row's padding.
        """
        for length in codes_lens.unique().tolist():
            if length:
                rows = (codes_lens == length).nonzero().flatten().tolist()
                yield rows, codes_lens[rows]

    def _encode(self, audio: Tensor, codes_lens: Tensor) -> Tensor:
        num_frames = audio.shape[1] // self.hop_samples
        codes = torch.zeros(len(audio), num_frames, self.num_codebooks, dtype=torch.long, device=self.device)
        for rows, lens in self.row_groups(codes_lens):
            longest = int(lens.max())
            codes[rows, :longest] = self.encode_rows(audio[rows, : longest * self.hop_samples], lens)
        return codes

    def _decode(self, codes: Tensor, codes_lens: Tensor) -> Tensor:
        audio = torch.zeros(len(codes), codes.shape[1] * self.hop_samples, device=self.device)
        for rows, lens in self.row_groups(codes_lens):
            longest = int(lens.max())
            num_samples = longest * self.hop_samples
            decoded = self.decode_rows(codes[rows, :longest], lens)[:, :num_samples]
            audio[rows, :num_samples] = F.pad(decoded, (0, num_samples - decoded.shape[1]))
        return audio

    @abstractmethod
    def encode_rows(self, audio: Tensor, lens: Tensor) -> Tensor:
        """(b, T * hop) audio of a group, zero after each row's `lens` (b,) frames, to codes (b, T, Q)."""

    @abstractmethod
    def decode_rows(self, codes: Tensor, lens: Tensor) -> Tensor:
        """Codes (b, T, q) of a group to audio (b, N); N may be a few samples less than T * hop."""
