"""Masks, all boolean; the name says what True means."""

import torch
from torch import Tensor


def padding_mask(lens: Tensor, max_len: int) -> Tensor:
    """(B,) lengths to `is_pad` (B, max_len)."""
    return torch.arange(max_len, device=lens.device) >= lens.unsqueeze(1)


def full_attention_mask(is_pad: Tensor) -> Tensor:
    """`may_attend` (B, 1, 1, L): everything sees every key that is not padding."""
    return ~is_pad[:, None, None, :]


def prefix_lm_mask(text_lens: Tensor, length: int) -> Tensor:
    """`may_attend` (B, 1, L, L) of packed rows: text sees all text; audio sees all text and audio up to itself.

    Padding stands behind the audio, so that neither sees it.
    """
    index = torch.arange(length, device=text_lens.device)
    return (index < text_lens[:, None, None, None]) | (index <= index.unsqueeze(1))
