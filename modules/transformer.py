"""The transformer that both models share."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from modules.attention import SelfAttention
from modules.kv_cache import CacheView, KVCache
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
        self, x: Tensor, may_attend: Tensor | None, condition: Tensor | None, layer: int, cache: CacheView | None
    ) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self.self_attn(self.norm1(x, condition), may_attend, layer, cache))
            return x + self.feed_forward(self.norm2(x, condition))
        x = self.norm1(x + self.dropout(self.self_attn(x, may_attend, layer, cache)), condition)
        return self.norm2(x + self.feed_forward(x), condition)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))

    def attention_weights(self, x: Tensor, may_attend: Tensor, heads: Sequence[int] | None = None) -> Tensor:
        """The attention weights (B, K, L, N) of `SelfAttention.weights`, for the layer's input x (B, L, D)."""
        return self.self_attn.weights(self.norm1(x, None) if self.norm_first else x, may_attend, heads)


class Transformer(nn.Module):
    """A stack of layers, with a final norm when pre-norm.

    With `adaptive` every norm is conditioned on an embedding (1, D), an argument of each call. With `recompute`,
    training keeps only each layer's input, and computes its activations again in the backward pass.
    """

    def __init__(
        self, width: int, num_heads: int, num_layers: int, dropout: float, norm_first: bool, adaptive: bool = False
    ) -> None:
        super().__init__()
        self.width, self.num_heads = width, num_heads
        self.recompute = False
        self.layers = nn.ModuleList(
            TransformerLayer(width, num_heads, dropout, norm_first, adaptive) for _ in range(num_layers)
        )
        self.norm = (AdaptiveLayerNorm if adaptive else LayerNorm)(width) if norm_first else None

    def forward(
        self,
        x: Tensor,
        may_attend: Tensor | None,
        condition: Tensor | None = None,
        cache: CacheView | None = None,
    ) -> Tensor:
        """x (B, L, D) to the same. `may_attend` broadcasts to (B, H, L, keys); with None everything attends to all."""
        for index, layer in enumerate(self.layers):
            if cache is not None:
                # `forward` bypasses a compiled layer, which would be compiled again for the shapes of decoding.
                x = layer.forward(x, may_attend, condition, index, cache)
            elif self.recompute and self.training:
                x = checkpoint(layer, x, may_attend, condition, index, None, use_reentrant=False)
            else:
                x = layer(x, may_attend, condition, index, None)
        return x if self.norm is None else self.norm(x, condition)

    @property
    def attention_dtype(self) -> torch.dtype:
        """The type of queries, keys and values: that of the weights, or bf16 with int8 weights."""
        weight = cast(Tensor, cast(TransformerLayer, self.layers[0]).self_attn.in_proj.weight)
        return weight.dtype if weight.is_floating_point() else torch.bfloat16

    def new_cache(self, batch: int, max_len: int, device: torch.device) -> KVCache:
        """An empty cache for `max_len` positions."""
        head_dim = self.width // self.num_heads
        # On a CPU torch's attention over bf16 keys is several times slower than over fp32 keys of twice the size.
        dtype = torch.float32 if device.type == "cpu" else self.attention_dtype
        return KVCache(len(self.layers), batch, self.num_heads, max_len, head_dim, dtype, device)

    def attention_maps(self, x: Tensor, may_attend: Tensor) -> list[Tensor]:
        """Each layer's attention weights, averaged over heads: (B, L, L)."""
        maps = []
        for index, layer in enumerate(cast(Iterable[TransformerLayer], self.layers)):
            maps.append(layer.attention_weights(x, may_attend).mean(1))
            x = layer(x, may_attend, None, index, None)
        return maps

    def forward_with_weights(
        self, x: Tensor, may_attend: Tensor, is_key: Tensor, heads: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """`forward`, and the attention weights (B, K, L, N) of K heads, each a layer and a head.

        Weights count only among the first N positions where `is_key` (B, N): those of a query add up to 1 there.
        """
        weights: dict[tuple[int, int], Tensor] = {}
        for index, layer in enumerate(cast(Iterable[TransformerLayer], self.layers)):
            own = [head for of_layer, head in heads if of_layer == index]
            if own:
                of_heads = layer.attention_weights(x, is_key[:, None, None], own).unbind(1)
                weights |= {(index, head): of_one for head, of_one in zip(own, of_heads, strict=True)}
            x = layer(x, may_attend, None, index, None)
        x = x if self.norm is None else self.norm(x, None)
        if not heads:
            return x, x.new_zeros(len(x), 0, x.shape[1], is_key.shape[1])
        return x, torch.stack([weights[head] for head in heads], dim=1)
