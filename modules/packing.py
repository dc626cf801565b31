"""Packs the text and audio of each row into one sequence, with padding only at its end."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """The layout of packed rows: a row's text, its audio, then padding.

    text_lens and audio_lens are (B,). `length` L is that of the longest row, a plain int, so that shapes need no GPU
    sync.
    """

    text_lens: Tensor
    audio_lens: Tensor
    length: int

    @classmethod
    def from_lengths(cls, text_lens: Tensor, audio_lens: Tensor, length: int | None = None) -> "Packing":
        """Without `length`, finding the longest row forces a GPU sync."""
        return cls(text_lens, audio_lens, int((text_lens + audio_lens).max()) if length is None else length)

    @property
    def lens(self) -> Tensor:
        """Text and audio positions of each row (B,)."""
        return self.text_lens + self.audio_lens

    def pack(self, text: Tensor, audio: Tensor) -> Tensor:
        """text (B, S, D) and audio (B, T, D), each padded, to (B, L, D)."""
        num_text, num_both = text.shape[1], text.shape[1] + audio.shape[1]
        index = torch.arange(self.length, device=text.device).unsqueeze(0)
        text_lens = self.text_lens.unsqueeze(1)
        # Audio frame i is item S + i of the padded text and audio, and position text_lens + i of the packed row.
        source = torch.where(index < text_lens, index, index - text_lens + num_text)
        # Padding may copy any item: masks hide it.
        return _select(torch.cat([text, audio], dim=1), source.clamp(max=num_both - 1))

    def unpack_audio(self, packed: Tensor, num_audio: int) -> Tensor:
        """The audio of packed rows (B, L, D), padded on the right to (B, num_audio, D)."""
        index = torch.arange(num_audio, device=packed.device) + self.text_lens.unsqueeze(1)
        return _select(packed, index.clamp(max=self.length - 1))

    def last_positions(self, packed: Tensor) -> Tensor:
        """The last position before padding of each row (B, L, D): (B, D)."""
        return _select(packed, self.lens.unsqueeze(1) - 1)[:, 0]


def _select(x: Tensor, index: Tensor) -> Tensor:
    """The items of each row of x (B, L, D) at index (B, N): (B, N, D)."""
    rows = torch.arange(len(x), device=x.device).unsqueeze(1) * x.shape[1]
    return x.flatten(0, 1).index_select(0, (index + rows).flatten()).unflatten(0, index.shape)
