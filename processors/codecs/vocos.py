"""Vocos (arXiv 2306.00814): a decoder for EnCodec's codes that predicts magnitudes and phases instead of samples."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import InferSettings
from processors.codecs.base import Codec
from processors.codecs.encodec import CODEBOOK_SIZE, HOP_SAMPLES, Encodec
from processors.codecs.speech_net import MAX_MAGNITUDE, ShortTimeTransform, frame_mask
from processors.codecs.weights import download_weights, find_weights, read_tensors, unusable
from utils.errors import UserError

HUB_NAME, WEIGHTS_FILE = "charactr/vocos-encodec-24khz", "pytorch_model.bin"
# The released model was trained with 2, 4, 8 and 16 codebooks: 1.5, 3, 6 and 12 kbps.
CODEBOOKS_OF_CONDITION = (2, 4, 8, 16)
_CODES, _BACKBONE, _HEAD = "feature_extractor.codebook_weights", "backbone.", "head."


class ConditionedNorm(nn.Module):
    """LayerNorm whose scale and shift are looked up for the number of codebooks (section 3.2)."""

    def __init__(self, num_conditions: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Embedding(num_conditions, width)
        self.shift = nn.Embedding(num_conditions, width)

    def forward(self, x: Tensor, condition: int) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.scale.weight[condition], self.shift.weight[condition], eps=1e-6)


class VocosBlock(nn.Module):
    """A ConvNeXt block in one dimension: a depthwise convolution over frames and an MLP on each frame."""

    def __init__(self, num_conditions: int, width: int, hidden_width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = ConditionedNorm(num_conditions, width)
        self.pwconv1 = nn.Linear(width, hidden_width)
        self.pwconv2 = nn.Linear(hidden_width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, is_frame: Tensor, condition: int) -> Tensor:
        hidden = self.dwconv((x * is_frame).transpose(1, 2)).transpose(1, 2)
        return x + self.gamma * self.pwconv2(F.gelu(self.pwconv1(self.norm(hidden, condition))))


class VocosNet(nn.Module):
    """Code vectors to waveforms. The names of the modules are those of the released weights' tensors."""

    def __init__(self, latent_dim: int, width: int, hidden_width: int, num_layers: int, num_conditions: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(latent_dim, width, 7, padding=3)
        self.norm = ConditionedNorm(num_conditions, width)
        self.convnext = nn.ModuleList(VocosBlock(num_conditions, width, hidden_width) for _ in range(num_layers))
        self.final_layer_norm = nn.LayerNorm(width, eps=1e-6)
        self.transform = ShortTimeTransform(HOP_SAMPLES)
        self.out = nn.Linear(width, self.transform.n_fft + 2)

    def forward(self, latents: Tensor, codes_lens: Tensor, condition: int) -> Tensor:
        """(B, T, latent_dim) to (B, T * hop); what lies after a row's `codes_lens` (B,) frames is not read."""
        is_frame = frame_mask(codes_lens, latents.shape[1])
        x = self.embed((latents * is_frame).transpose(1, 2)).transpose(1, 2)
        x = self.norm(x, condition)
        for block in self.convnext:
            x = block(x, is_frame, condition)
        magnitude, phase = self.out(self.final_layer_norm(x)).chunk(2, dim=-1)
        magnitude = magnitude.clamp(max=math.log(MAX_MAGNITUDE)).exp()
        return self.transform.inverse(torch.polar(magnitude, phase), is_frame)


class EncodecVocos(Encodec):
    """EnCodec's encoder and codes, with Vocos as the decoder."""

    def __init__(self, codec: Encodec, net: VocosNet, tables: Tensor) -> None:
        """`tables` (Q', 1024, W) are the vectors of the codes, for as many codebooks as Vocos knows."""
        super().__init__(codec.model)
        self.net = net.eval().requires_grad_(False)
        self.tables = tables
        self.to(codec.device)

    @classmethod
    def wrap(cls, codec: Codec, settings: InferSettings, root: Path) -> "EncodecVocos":
        """Raises UserError if the codec is not EnCodec, or the weights are missing or damaged."""
        if not isinstance(codec, Encodec):
            raise UserError(
                f"infer.vocoder: vocos decodes EnCodec's codes, not those of {type(codec).__name__}; set it to codec"
            )
        source = find_weights(settings.vocoder_checkpoint or HUB_NAME, root)
        return cls(codec, *load_vocos(source))

    def to(self, device: torch.device | str) -> "EncodecVocos":
        super().to(device)
        self.net.to(self.device)
        self.tables = self.tables.to(self.device)
        return self

    @property
    def vectors(self) -> Tensor:
        return self.tables[: self.num_codebooks]

    def _decode(self, codes: Tensor, codes_lens: Tensor) -> Tensor:
        return self._decode_sums(self.sum_vectors(codes), codes_lens, codes.shape[2])

    def _decode_vectors(self, vectors: Tensor, codes_lens: Tensor) -> Tensor:
        return self._decode_sums(vectors, codes_lens, self.num_codebooks)

    def _decode_sums(self, sums: Tensor, codes_lens: Tensor, num_codebooks: int) -> Tensor:
        """(B, T, W) sums of the vectors of so many codebooks to (B, T * hop) audio."""
        condition = next(i for i, most in enumerate(CODEBOOKS_OF_CONDITION) if num_codebooks <= most)
        return self.net(sums, codes_lens, condition)


def load_vocos(source: Path | str) -> tuple[VocosNet, Tensor]:
    """The network and the vectors of its codes (Q', 1024, W), from a file, a folder or the hub.

    Raises UserError if they are missing, damaged or of another model. Nothing but tensors is read.
    """
    try:
        path = download_weights(source, WEIGHTS_FILE) if isinstance(source, str) else source
        weights = read_tensors(path / WEIGHTS_FILE if path.is_dir() else path)
        tables = weights[_CODES].float().unflatten(0, (-1, CODEBOOK_SIZE))
        own = {
            name.removeprefix(part): tensor
            for name, tensor in weights.items()
            for part in (_BACKBONE, _HEAD)
            # The window is computed. The released file has EnCodec itself beside the tables, too.
            if name.startswith(part) and name != "head.istft.window"
        }
        # The sizes follow from the shapes.
        width, latent_dim, _ = own["embed.weight"].shape
        hidden_width = own["convnext.0.pwconv1.weight"].shape[0]
        num_layers = len({name.split(".")[1] for name in own if name.startswith("convnext.")})
        num_conditions = own["norm.scale.weight"].shape[0]
        if num_conditions != len(CODEBOOKS_OF_CONDITION) or len(tables) < CODEBOOKS_OF_CONDITION[2]:
            raise ValueError(f"made for {len(tables)} codebooks and {num_conditions} bit rates")
        net = VocosNet(latent_dim, width, hidden_width, num_layers, num_conditions)
        net.load_state_dict(own)
    except Exception as error:  # A damaged file or a failed download raises many types.
        advice = f"give a folder with {WEIGHTS_FILE} of {HUB_NAME}, or set infer.vocoder to codec"
        raise unusable("infer.vocoder_checkpoint", source, "Vocos for EnCodec", error, advice) from error
    return net, tables
