"""Keys and values of what was decoded already."""

from dataclasses import dataclass

import torch
from torch import Tensor


class KVCache:
    """A static cache: (layers, B, H, max_len, D/H) for keys and as much for values."""

    def __init__(self, num_layers: int, batch: int, num_heads: int, max_len: int, head_dim: int, like: Tensor) -> None:
        shape = (num_layers, batch, num_heads, max_len, head_dim)
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)

    def at(self, slots: Tensor, end: int) -> "CacheStep":
        """What one forward pass needs: `slots` (B, L) it writes to, and the number of slots it reads."""
        return CacheStep(self, slots, end)


@dataclass(frozen=True)
class CacheStep:
    """One forward pass's place in the cache. Rows may stand at different slots, as prompts differ in length."""

    cache: KVCache
    slots: Tensor
    end: int

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, H, L, D/H) of a layer; returns all up to `end` (B, H, end, D/H)."""
        rows = torch.arange(keys.shape[0], device=keys.device).unsqueeze(1)
        all_keys, all_values = self.cache.keys[layer], self.cache.values[layer]
        all_keys[rows, :, self.slots] = keys.transpose(1, 2).to(all_keys.dtype)
        all_values[rows, :, self.slots] = values.transpose(1, 2).to(all_values.dtype)
        return all_keys[:, :, : self.end], all_values[:, :, : self.end]
