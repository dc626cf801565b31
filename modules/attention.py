"""Multi-head self-attention with a fused projection."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.kv_cache import CacheView


class SelfAttention(nn.Module):
    """Self-attention through torch's SDPA.

    Raises ValueError when the width is not a multiple of the number of heads.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of {num_heads} heads")
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, may_attend: Tensor | None, layer: int = 0, cache: CacheView | None = None) -> Tensor:
        """x (B, L, D) to the same. With a cache the keys are the cache's, otherwise those of x.

        `may_attend` broadcasts to (B, H, L, keys). It is boolean, or a float bias added to the scores: 0 or minus
        infinity.
        """
        query, key, value = self._project(x, None if cache is None else cache.dtype)
        if cache is not None:
            key, value = cache.update(layer, key, value)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=may_attend, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, may_attend: Tensor, heads: Sequence[int] | None = None) -> Tensor:
        """The attention weights (B, K, L, N), which SDPA does not return: those of K `heads`, or of all.

        `may_attend` broadcasts to (B, K, L, N). The first N positions are keys; the weights of a query add up to 1.
        """
        query, key, _ = self._project(x)
        if heads is not None:
            query, key = query[:, heads], key[:, heads]
        scores = query @ key[:, :, : may_attend.shape[-1]].transpose(-2, -1) / math.sqrt(query.shape[-1])
        return scores.float().masked_fill(~may_attend, -math.inf).softmax(-1)

    def _project(self, x: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, L, D) to queries, keys and values, each (B, H, L, D/H), cast to `dtype` if given."""
        fused = self.in_proj(x)
        query, key, value = fused.to(dtype or fused.dtype).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value
