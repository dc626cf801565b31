"""Text and audio of each row as one sequence, with padding at its end alone."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where things stand in packed rows: a row's text, right behind it its audio, then padding.

    text_lens and audio_lens are (B,). `length` L is that of the longest row, a plain int, so that no device is asked.
    """

    text_lens: Tensor
    audio_lens: Tensor
    length: int

    @classmethod
    def from_lengths(cls, text_lens: Tensor, audio_lens: Tensor, length: int | None = None) -> "Packing":
        """Without `length` the device is asked for the longest row."""
        return cls(text_lens, audio_lens, int((text_lens + audio_lens).max()) if length is None else length)

    @property
    def lens(self) -> Tensor:
        """(B,) positions of each row in use."""
        return self.text_lens + self.audio_lens

    def pack(self, text: Tensor, audio: Tensor) -> Tensor:
        """text (B, S, D) and audio (B, T, D), each padded, to (B, L, D)."""
        num_text, width = text.shape[1], text.shape[1] + audio.shape[1]
        index = torch.arange(self.length, device=text.device).unsqueeze(0)
        text_lens = self.text_lens.unsqueeze(1)
        source = torch.where(index < text_lens, index, index - text_lens + num_text).clamp(max=width - 1)
        return _select(torch.cat([text, audio], dim=1), source)

    def unpack_audio(self, packed: Tensor, num_audio: int) -> Tensor:
        """The audio's part of (B, L, D), padded anew to (B, num_audio, D)."""
        index = torch.arange(num_audio, device=packed.device) + self.text_lens.unsqueeze(1)
        return _select(packed, index.clamp(max=self.length - 1))

    def last_positions(self, packed: Tensor) -> Tensor:
        """Each row's last position (B, D)."""
        return _select(packed, self.lens.unsqueeze(1) - 1)[:, 0]


def _select(x: Tensor, index: Tensor) -> Tensor:
    """Row by row, the items of x (B, L, D) that index (B, N) names: (B, N, D)."""
    rows = torch.arange(len(x), device=x.device).unsqueeze(1) * x.shape[1]
    return x.flatten(0, 1).index_select(0, (index + rows).flatten()).unflatten(0, index.shape)
