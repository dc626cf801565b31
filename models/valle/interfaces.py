"""What the models need of a codec and of a text frontend: these are built elsewhere and handed in."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Codec(Protocol):
    """Waveforms to codes and back; codes are (B, T, Q), lengths (B,)."""

    sample_rate_hz: int
    num_codebooks: int
    codebook_size: int

    @property
    def frame_rate_hz(self) -> float: ...

    def encode(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode(self, codes: Tensor, codes_lens: Tensor) -> tuple[Tensor, Tensor]: ...

    def fingerprint(self) -> str: ...

    def to(self, device: torch.device) -> "Codec": ...


class Tokenizer(Protocol):
    """Text to phones to ids; training and inference get their ids from the same one."""

    def phones(self, texts: Sequence[str]) -> list[list[str]]: ...

    def refusal(self, name: str, text: str) -> str | None: ...

    def ids(self, phones: Sequence[str]) -> list[int]: ...
