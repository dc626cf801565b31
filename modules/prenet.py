"""Layers between an embedding and its positions, with `add_prenet`."""

import torch
from torch import Tensor, nn


class TextPrenet(nn.Sequential):
    """Three conv(5)-batchnorm-relu-dropout(0.5), then a linear: (B, S, D) to the same.

    Padded positions are zeroed before each convolution and excluded from batch statistics, so padding changes nothing.
    """

    def __init__(self, width: int) -> None:
        # The identities keep the indices that the layers have in checkpoints.
        blocks: list[nn.Module] = [nn.Identity()]
        for _ in range(3):
            blocks += [nn.Conv1d(width, width, 5, padding="same"), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5)]
        super().__init__(*blocks, nn.Identity(), nn.Linear(width, width))

    def forward(self, x: Tensor, is_pad: Tensor) -> Tensor:  # type: ignore[override]
        for part in self:
            if isinstance(part, nn.Conv1d):
                x = part(x.masked_fill(is_pad.unsqueeze(-1), 0).transpose(1, 2)).transpose(1, 2)
            elif isinstance(part, nn.BatchNorm1d):
                # Statistics are those of the positions in use, as one batch of (N, D).
                normed = torch.zeros_like(x)
                normed[~is_pad] = part(x[~is_pad]).to(x.dtype)
                x = normed
            else:
                x = part(x)
        return x


class AudioPrenet(nn.Sequential):
    """linear(256)-relu-dropout(0.25) twice, then a linear: (B, T, D) to the same."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Linear(width, 256),
            nn.ReLU(),
            nn.Dropout(0.25),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Dropout(0.25),
            nn.Linear(256, width),
        )


class NoPrenet(nn.Module):
    """Takes the place of a prenet where `add_prenet` is off, and returns x unchanged."""

    def forward(self, x: Tensor, is_pad: Tensor | None = None) -> Tensor:
        return x
