"""Cached keys and values of earlier positions."""

from dataclasses import dataclass

import torch
from torch import Tensor


class KVCache:
    """A static cache of `max_len` slots: keys and values are (layers, B, H, max_len, D/H) each."""

    def __init__(
        self,
        num_layers: int,
        batch: int,
        num_heads: int,
        max_len: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, batch, num_heads, max_len, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)

    def view(self, slots: Tensor, end: int) -> "CacheView":
        """The view of one forward pass: it writes `slots` (L,) in every row, and reads the slots before `end`."""
        return CacheView(self, slots, end)


@dataclass(frozen=True)
class CacheView:
    """The slots of a cache that one forward pass writes and reads."""

    cache: KVCache
    slots: Tensor
    end: int

    @property
    def dtype(self) -> torch.dtype:
        return self.cache.keys.dtype

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's keys and values (B, H, L, D/H); returns those before `end` (B, H, end, D/H)."""
        all_keys, all_values = self.cache.keys[layer], self.cache.values[layer]
        all_keys.index_copy_(2, self.slots, keys)
        all_values.index_copy_(2, self.slots, values)
        return all_keys[:, :, : self.end], all_values[:, :, : self.end]
