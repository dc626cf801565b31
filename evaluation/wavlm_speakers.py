"""Speaker embeddings of WavLM with an ECAPA-TDNN head, in the checkpoint format of UniSpeech.

Seed-TTS-eval, VALL-E 2 and F5-TTS measure similarity with its `wavlm_large_finetune.pth`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize, softmax

from evaluation.fairseq_weights import build_encoder, fill, part_of
from utils.errors import UserError

ENCODER = "feature_extract.model."
"""What the names of WavLM's weights begin with in a checkpoint."""
KIND = "WavLM-large ECAPA-TDNN of UniSpeech"
_SCALE, _DILATIONS = 8, (2, 3, 4)
_EPSILON = 1e-6
# The head's names in a checkpoint, and here.
_RENAMES = (
    ("Res2Conv1dReluBn.convs", "split.convs"),
    ("Res2Conv1dReluBn.bns", "split.norms"),
    ("Conv1dReluBn1", "before"),
    ("Conv1dReluBn2", "after"),
    ("SE_Connect.linear1", "squeeze"),
    ("SE_Connect.linear2", "excite"),
    (".bn.", ".norm."),
)
# The layer that tells the speakers of training apart.
_CLASSIFIER = "loss_calculator."


class ConvNorm(nn.Module):
    """A convolution, ReLU and batch norm over (B, C, T)."""

    def __init__(self, num_inputs: int, num_outputs: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(num_inputs, num_outputs, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm1d(num_outputs)

    def forward(self, frames: Tensor) -> Tensor:
        return self.norm(self.conv(frames).relu())


class SplitConv(nn.Module):
    """Res2Net: the channels in eight groups, where each but the last also gets the group before, convolved."""

    def __init__(self, num_channels: int, dilation: int) -> None:
        super().__init__()
        width = num_channels // _SCALE
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation) for _ in range(_SCALE - 1)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(_SCALE - 1))

    def forward(self, frames: Tensor) -> Tensor:
        *groups, last = frames.chunk(_SCALE, dim=1)
        outputs: list[Tensor] = []
        for group, conv, norm in zip(groups, self.convs, self.norms, strict=True):
            outputs.append(norm(conv(group + outputs[-1] if outputs else group).relu()))
        return torch.cat([*outputs, last], dim=1)


class Block(nn.Module):
    """A residual block: channels mixed, convolved in groups, mixed, and weighted by their means over time."""

    def __init__(self, num_channels: int, bottleneck: int, dilation: int) -> None:
        super().__init__()
        self.before = ConvNorm(num_channels, num_channels)
        self.split = SplitConv(num_channels, dilation)
        self.after = ConvNorm(num_channels, num_channels)
        self.squeeze = nn.Linear(num_channels, bottleneck)
        self.excite = nn.Linear(bottleneck, num_channels)

    def forward(self, frames: Tensor) -> Tensor:
        mixed = self.after(self.split(self.before(frames)))
        weights = self.excite(self.squeeze(mixed.mean(2)).relu()).sigmoid()
        return frames + mixed * weights[..., None]


class AttentivePooling(nn.Module):
    """Weighted mean and standard deviation over time, by an attention of each channel."""

    def __init__(self, num_channels: int, bottleneck: int) -> None:
        super().__init__()
        self.linear1 = nn.Conv1d(num_channels, bottleneck, 1)
        self.linear2 = nn.Conv1d(bottleneck, num_channels, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, C, T) to (B, 2C)."""
        weights = softmax(self.linear2(self.linear1(frames).tanh()), dim=2)
        mean = (weights * frames).sum(2)
        variance = (weights * frames**2).sum(2) - mean**2
        return torch.cat([mean, variance.clamp(min=1e-9).sqrt()], dim=1)


class EcapaTdnn(nn.Module):
    """ECAPA-TDNN (arXiv 2005.07143) over a weighted sum of an encoder's layers. Sizes are those of `weights`."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        channels, num_inputs, kernel = weights["layer1.conv.weight"].shape
        wide = len(weights["conv.weight"])
        self.feature_weight = nn.Parameter(torch.zeros(len(weights["feature_weight"])))
        self.layer1 = ConvNorm(num_inputs, channels, kernel)
        self.layer2, self.layer3, self.layer4 = (
            Block(channels, len(weights[f"layer{number}.squeeze.weight"]), dilation)
            for number, dilation in zip((2, 3, 4), _DILATIONS, strict=True)
        )
        self.conv = nn.Conv1d(3 * channels, wide, 1)
        self.pooling = AttentivePooling(wide, len(weights["pooling.linear1.weight"]))
        self.bn = nn.BatchNorm1d(2 * wide)
        self.linear = nn.Linear(2 * wide, len(weights["linear.weight"]))

    def forward(self, layers: Tensor) -> Tensor:
        """Map the outputs of L layers (L, B, T, D) to embeddings (B, E)."""
        summed = torch.einsum("l,lbtd->bdt", self.feature_weight.softmax(0), layers) + _EPSILON
        frames = self.layer1(nn.functional.instance_norm(summed))
        blocks = []
        for block in (self.layer2, self.layer3, self.layer4):
            frames = block(frames)
            blocks.append(frames)
        return self.linear(self.bn(self.pooling(self.conv(torch.cat(blocks, dim=1)).relu())))


class WavLmEmbeddings:
    """Embeds a clip as a whole, from all layers of a fine-tuned WavLM."""

    kind = KIND

    def __init__(self, path: Path, weights: Mapping[str, Any], device: torch.device, how: str) -> None:
        self.name = path.name
        self._encoder = build_encoder(part_of(weights, ENCODER), path, how).to(device)
        head = {_renamed(name): w for name, w in weights.items() if not name.startswith((ENCODER, _CLASSIFIER))}
        try:
            model = EcapaTdnn(head)
        except (KeyError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: has no ECAPA-TDNN head of UniSpeech ({error}); {how}") from error
        self._head = fill(model, head, path, how).to(device)
        self._device = device

    @torch.inference_mode()
    def embed(self, audio: np.ndarray) -> np.ndarray:
        waveform = torch.from_numpy(audio).float().to(self._device)[None]
        outputs = self._encoder(layer_norm(waveform, waveform.shape[1:]), output_hidden_states=True)
        # The last state counts after the encoder's norm, before which some releases of transformers return it.
        layers = torch.stack([*outputs.hidden_states[:-1], outputs.last_hidden_state])
        return normalize(self._head(layers), dim=1)[0].cpu().numpy()


def _renamed(name: str) -> str:
    for old, new in _RENAMES:
        name = name.replace(old, new)
    return name
