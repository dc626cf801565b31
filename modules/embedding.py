"""Token and position embeddings."""

import math

import torch
from torch import Tensor, nn


class TokenEmbedding(nn.Module):
    """Looks tokens up, without scaling: (B, L) ids to (B, L, D)."""

    def __init__(self, width: int, num_tokens: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(num_tokens, width)

    @property
    def weight(self) -> Tensor:
        return self.word_embeddings.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.word_embeddings(tokens)


class SinePosition(nn.Module):
    """Adds interleaved sine and cosine positions (base 10000), times a scalar that may be learned.

    The table grows when a longer sequence comes, and is not part of a checkpoint.
    """

    def __init__(self, width: int, dropout: float, learned_scale: bool) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1), requires_grad=learned_scale)
        self.dropout = nn.Dropout(dropout)
        self.table: Tensor
        self.register_buffer("table", self._sines(512, width), persistent=False)

    @staticmethod
    def _sines(num_positions: int, width: int) -> Tensor:
        # On the CPU even where a model is built without memory, as no checkpoint will fill the table.
        rates = torch.exp(torch.arange(0, width, 2, device="cpu") * -(math.log(10000.0) / width))
        angles = torch.arange(num_positions, device="cpu").unsqueeze(1) * rates
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """(B, L, D) to the same; `first` (B,) is the position of each row's first item, 0 when absent.

        The caller who gives `first` has called `reserve` before, so that no value is read back from the device.
        """
        length = x.shape[1]
        if first is None:
            self.reserve(length)
            positions = self.table[:length]
        else:
            positions = self.table[first.unsqueeze(1) + torch.arange(length, device=x.device)]
        return self.dropout(x + self.alpha * positions)

    def reserve(self, num_positions: int) -> None:
        """Make the table hold at least this many positions."""
        if num_positions > self.table.shape[0]:
            rows = 2 ** math.ceil(math.log2(num_positions))
            # A table that grows while speaking must still serve training.
            with torch.inference_mode(mode=False):
                self.table = self._sines(rows, self.table.shape[1]).to(self.table)
