"""Token and position embeddings."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TokenEmbedding(nn.Module):
    """Token ids (B, L) to embeddings (B, L, D), without a factor of sqrt(D)."""

    def __init__(self, width: int, num_tokens: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(num_tokens, width)

    @property
    def weight(self) -> Tensor:
        return self.word_embeddings.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.word_embeddings(tokens)


@torch.no_grad()
def init_from_vectors(tables: Sequence[Tensor], vectors: Tensor) -> None:
    """Set the first V rows of each table (at least V, D) to an orthogonal map of its vectors (V, W).

    Vectors are centred, and scaled to the standard deviation of the rows that they replace. All tables share the map,
    so that related codes of two codebooks stay related. Where D is at least W, the codes keep their distances.
    """
    rotation = nn.init.orthogonal_(torch.empty(vectors.shape[2], tables[0].shape[1]))
    for table, own in zip(tables, vectors, strict=True):
        mapped = (own - own.mean(0)).to(table.device) @ rotation.to(table.device)
        rows = table[: len(own)]
        rows.copy_(mapped * (rows.std() / mapped.std()))


class SinePosition(nn.Module):
    """Adds interleaved sine and cosine positions (base 10000), times a scalar `alpha` that may be learned.

    The table grows for longer sequences, and is not part of a checkpoint.
    """

    def __init__(self, width: int, dropout: float, learned_scale: bool) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1), requires_grad=learned_scale)
        self.dropout = nn.Dropout(dropout)
        self.table: Tensor
        self.register_buffer("table", self._sines(512, width), persistent=False)

    @staticmethod
    def _sines(num_positions: int, width: int) -> Tensor:
        # On the CPU even under `torch.device("meta")`: no checkpoint contains this table.
        rates = torch.exp(torch.arange(0, width, 2, device="cpu") * -(math.log(10000.0) / width))
        angles = torch.arange(num_positions, device="cpu").unsqueeze(1) * rates
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """x (B, L, D) to the same; `first` (B,) is the position of each row's first item, 0 when absent.

        A caller that passes `first` must call `reserve` before, as reading the largest position here would force a GPU
        sync.
        """
        length = x.shape[1]
        if first is None:
            self.reserve(length)
            positions = self.table[:length]
        else:
            positions = self.table[first.unsqueeze(1) + torch.arange(length, device=x.device)]
        return self.dropout(x + self.alpha * positions)

    def reserve(self, num_positions: int) -> None:
        """Grow the table to at least this many positions."""
        if num_positions > self.table.shape[0]:
            rows = 2 ** math.ceil(math.log2(num_positions))
            # Outside inference mode: autograd could not use an inference tensor in later training steps.
            with torch.inference_mode(mode=False):
                self.table = self._sines(rows, self.table.shape[1]).to(self.table)
