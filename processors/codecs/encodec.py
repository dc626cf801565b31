"""EnCodec (arXiv 2210.13438), 24 kHz at 6 kbps, through the encodec package."""

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from encodec import EncodecModel
from torch import Tensor

from config.schema import PreprocessSettings
from processors.codecs.base import Codec
from utils.errors import UserError

BANDWIDTH_KBPS = 6.0
# The widest convolutions over frames use six frames of reflection padding, which needs seven frames of input.
MIN_BATCH_FRAMES = 7


class Encodec(Codec):
    """The 24 kHz model at 6 kbps: 8 codebooks of 1024 codes."""

    file_name = "encodec.th"

    def __init__(self, model: EncodecModel) -> None:
        self.model = model.eval().requires_grad_(False)
        self.sample_rate_hz = int(model.sample_rate)
        self.hop_samples = int(model.encoder.hop_length)
        self.num_codebooks = model.quantizer.get_num_quantizers_for_bandwidth(model.frame_rate, BANDWIDTH_KBPS)
        self.codebook_size = int(model.quantizer.bins)
        self.device = next(model.parameters()).device

    @classmethod
    def open(cls, settings: PreprocessSettings, own_file: Path | None, root: Path) -> "Encodec":
        has_own = own_file is not None and own_file.is_file()
        return cls.load(own_file if has_own else cls.weights_file(settings, root))

    @classmethod
    def load(cls, checkpoint: Path | None) -> "Encodec":
        """The pretrained model from a local file; None downloads it once, into torch hub's cache.

        Raises UserError if the file or the download cannot be used.
        """
        with warnings.catch_warnings():
            # The package uses a deprecated form of torch's weight norm.
            warnings.simplefilter("ignore", FutureWarning)
            return cls(_download() if checkpoint is None else _load_file(checkpoint))

    def to(self, device: torch.device | str) -> "Encodec":
        self.device = torch.device(device)
        self.model.to(self.device)
        return self

    @property
    def vectors(self) -> Tensor:
        return torch.stack([layer.codebook for layer in self.model.quantizer.vq.layers[: self.num_codebooks]])

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        parts = [self.model.encoder, *self.model.quantizer.vq.layers[: self.num_codebooks]]
        for part in parts:
            for name, tensor in part.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _encode(self, audio: Tensor, codes_lens: Tensor) -> Tensor:
        codes = torch.zeros(len(audio), audio.shape[1] // self.hop_samples, self.num_codebooks, device=self.device)
        codes = codes.long()
        for rows, num_frames in _row_groups(codes_lens):
            latents = self.model.encoder(audio[rows, None, : num_frames * self.hop_samples])
            quantized = self.model.quantizer.encode(latents, self.model.frame_rate, BANDWIDTH_KBPS)
            codes[rows, :num_frames] = quantized.permute(1, 2, 0)
        return codes

    def _decode(self, codes: Tensor, codes_lens: Tensor) -> Tensor:
        audio = torch.zeros(len(codes), codes.shape[1] * self.hop_samples, device=self.device)
        for rows, num_frames in _row_groups(codes_lens):
            latents = self.model.quantizer.decode(codes[rows, :num_frames].permute(2, 0, 1))
            num_samples = num_frames * self.hop_samples
            audio[rows, :num_samples] = self.model.decoder(latents)[:, 0, :num_samples]
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


def _download() -> EncodecModel:
    try:
        return EncodecModel.encodec_model_24khz(pretrained=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            "EnCodec's weights could not be downloaded: connect once, or set preprocess.codec_checkpoint to a local "
            "copy of encodec_24khz-d7cc33bc.th, or preprocess.acoustic_token_extractor to MelRVQ"
        ) from error


def _load_file(path: Path) -> EncodecModel:
    if not path.is_file():
        raise UserError(f"preprocess.codec_checkpoint: {path} is not a file; null downloads EnCodec's weights")
    model = EncodecModel.encodec_model_24khz(pretrained=False)
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # A damaged file raises many types.
        raise UserError(
            f"preprocess.codec_checkpoint: {path} does not hold the weights of EnCodec's 24 kHz model "
            f"({type(error).__name__}); give encodec_24khz-d7cc33bc.th, or null to download it"
        ) from error
    return model
