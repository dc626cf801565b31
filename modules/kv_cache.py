"""Keys and values of what was decoded already."""

from dataclasses import dataclass

import torch
from torch import Tensor


class KVCache:
    """A static cache: (layers, B, H, max_len, D/H) for keys and as much for values."""

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
        """What one forward pass needs: `slots` (L,) it writes to in every row, and the number of slots it reads."""
        return CacheView(self, slots, end)


@dataclass(frozen=True)
class CacheView:
    """One forward pass's place in the cache."""

    cache: KVCache
    slots: Tensor
    end: int

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values, and so of the queries that attend to them."""
        return self.cache.keys.dtype

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, H, L, D/H) of a layer; returns all up to `end` (B, H, end, D/H)."""
        all_keys, all_values = self.cache.keys[layer], self.cache.values[layer]
        all_keys.index_copy_(2, self.slots, keys)
        all_values.index_copy_(2, self.slots, values)
        return all_keys[:, :, : self.end], all_values[:, :, : self.end]
