"""The transformer that both models share."""

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from modules.attention import SelfAttention
from modules.kv_cache import CacheStep, KVCache
from modules.norm import AdaptiveLayerNorm, LayerNorm


class TransformerLayer(nn.Module):
    """Self-attention and a ReLU feed-forward of 4D, each with a norm before (pre-norm) or after (post-norm)."""

    def __init__(self, width: int, num_heads: int, dropout: float, norm_first: bool, adaptive: bool) -> None:
        super().__init__()
        norm = AdaptiveLayerNorm if adaptive else LayerNorm
        self.norm_first = norm_first
        self.self_attn = SelfAttention(width, num_heads, dropout)
        self.linear1 = nn.Linear(width, 4 * width)
        self.linear2 = nn.Linear(4 * width, width)
        self.norm1 = norm(width)
        self.norm2 = norm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, may_attend: Tensor | None, condition: Tensor | None, layer: int, cache: CacheStep | None
    ) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self.self_attn(self.norm1(x, condition), may_attend, layer, cache))
            return x + self.feed_forward(self.norm2(x, condition))
        x = self.norm1(x + self.dropout(self.self_attn(x, may_attend, layer, cache)), condition)
        return self.norm2(x + self.feed_forward(x), condition)

    def attention_map(self, x: Tensor, may_attend: Tensor) -> Tensor:
        """Attention weights averaged over heads, (B, L, L)."""
        return self.self_attn.weights(self.norm1(x, None) if self.norm_first else x, may_attend).mean(1)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))


class Transformer(nn.Module):
    """A stack of layers, with a final norm when pre-norm.

    With `adaptive` every norm is conditioned on an embedding (1, D) that each call passes along.
    """

    def __init__(
        self, width: int, num_heads: int, num_layers: int, dropout: float, norm_first: bool, adaptive: bool = False
    ) -> None:
        super().__init__()
        self.width, self.num_heads = width, num_heads
        self.layers = nn.ModuleList(
            TransformerLayer(width, num_heads, dropout, norm_first, adaptive) for _ in range(num_layers)
        )
        self.norm = (AdaptiveLayerNorm if adaptive else LayerNorm)(width) if norm_first else None

    def forward(
        self,
        x: Tensor,
        may_attend: Tensor | None,
        condition: Tensor | None = None,
        cache: CacheStep | None = None,
    ) -> Tensor:
        """x (B, L, D) to the same; `may_attend` broadcasts to (B, H, L, keys), None where all is seen."""
        for index, layer in enumerate(self.layers):
            x = layer(x, may_attend, condition, index, cache)
        return x if self.norm is None else self.norm(x, condition)

    def new_cache(self, batch: int, max_len: int, like: Tensor) -> KVCache:
        """An empty cache for `max_len` positions, of the type and device of `like`."""
        return KVCache(len(self.layers), batch, self.num_heads, max_len, self.width // self.num_heads, like)

    def attention_maps(self, x: Tensor, may_attend: Tensor) -> list[Tensor]:
        """Each layer's attention weights, averaged over heads: (B, L, L)."""
        maps = []
        for index, layer in enumerate(cast(Iterable[TransformerLayer], self.layers)):
            maps.append(layer.attention_map(x, may_attend))
            x = layer(x, may_attend, None, index, None)
        return maps
