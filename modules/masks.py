"""Boolean masks, named after the meaning of True."""

import torch
from torch import Tensor


def padding_mask(lens: Tensor, max_len: int) -> Tensor:
    """(B,) lengths to `is_pad` (B, max_len)."""
    return torch.arange(max_len, device=lens.device) >= lens.unsqueeze(1)


def full_attention_mask(is_pad: Tensor) -> Tensor:
    """`may_attend` (B, 1, 1, L): every position attends to all keys that are not padding."""
    return ~is_pad[:, None, None, :]


def prefix_lm_mask(text_lens: Tensor, length: int) -> Tensor:
    """`may_attend` (B, 1, L, L) of packed rows: text attends to all text, audio to all text and audio up to itself.

    Padding comes after the audio, so neither attends to it.
    """
    index = torch.arange(length, device=text_lens.device)
    # Every query sees text keys (left) and keys up to itself (right). Text comes first, so it sees no audio.
    return (index < text_lens[:, None, None, None]) | (index <= index.unsqueeze(1))
