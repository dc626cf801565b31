"""Masks, all boolean; the name says what True means."""

import torch
from torch import Tensor


def padding_mask(lens: Tensor, max_len: int) -> Tensor:
    """(B,) lengths to `is_pad` (B, max_len)."""
    return torch.arange(max_len, device=lens.device) >= lens.unsqueeze(1)


def full_attention_mask(is_pad: Tensor) -> Tensor:
    """`may_attend` (B, 1, 1, L): everything sees every key that is not padding."""
    return ~is_pad[:, None, None, :]


def prefix_lm_mask(text_is_pad: Tensor, audio_is_pad: Tensor) -> Tensor:
    """`may_attend` (B, 1, S+T, S+T): text sees all text; audio sees all text and audio up to itself."""
    num_text, num_audio = text_is_pad.shape[1], audio_is_pad.shape[1]
    is_pad = torch.cat([text_is_pad, audio_is_pad], dim=1)
    index = torch.arange(num_text + num_audio, device=is_pad.device)
    sees = (index < num_text) | (index <= index.unsqueeze(1))
    sees = sees & ((index.unsqueeze(1) >= num_text) | (index < num_text))
    return sees & ~is_pad[:, None, None, :]
