"""The interface of codecs: waveforms to codes and back, in batches with lengths."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from config.schema import PreprocessSettings
from utils.config import resolve_path


def pad_to_hops(audio: Tensor, audio_lens: Tensor, hop_samples: int) -> tuple[Tensor, Tensor]:
    """Zero (B, N) audio after each row's `audio_lens` (B,) samples, and pad it to a whole number of hops.

    What a row is encoded from then does not depend on its batch. Returns (B, T * hop_samples) audio and (B,) frames; a
    last partial hop counts as a frame. Raises ValueError if a length is negative or exceeds N.
    """
    if audio_lens.numel() and (int(audio_lens.max()) > audio.shape[1] or int(audio_lens.min()) < 0):
        raise ValueError(f"audio_lens must lie between 0 and {audio.shape[1]}")
    codes_lens = (audio_lens + hop_samples - 1) // hop_samples
    num_samples = int(codes_lens.max()) * hop_samples if len(codes_lens) else 0
    audio = F.pad(audio, (0, max(0, num_samples - audio.shape[1])))[:, :num_samples]
    return audio.masked_fill(_is_pad(audio_lens, num_samples), 0.0), codes_lens


def _is_pad(lens: Tensor, size: int) -> Tensor:
    """(B, size) mask that is True from each row's length on."""
    return torch.arange(size, device=lens.device) >= lens[:, None]


class Codec(ABC):
    """Encodes waveforms (B, N) to codes (B, T, Q) and decodes them, on `device` and without gradients."""

    file_name: ClassVar[str]
    """Name of the codec's own file in an experiment's folder: local weights, or fitted codebooks."""
    is_fitted: ClassVar[bool] = False
    """Whether stage 1 fits the codec on the corpus, and writes that file to `processed_dir`."""
    sample_rate_hz: int
    hop_samples: int
    """Samples per frame."""
    num_codebooks: int
    """Q."""
    codebook_size: int
    """Codes lie in [0, codebook_size)."""
    device: torch.device

    @classmethod
    @abstractmethod
    def open(cls, settings: PreprocessSettings, own_file: Path | None, root: Path) -> "Codec":
        """The codec that the settings describe, on the CPU.

        If `own_file`, the codec's own file, exists, it takes precedence over `preprocess.codec_checkpoint`, which may
        be relative to `root`. Raises UserError if weights or codebooks are missing, damaged or made for other settings.
        """

    @classmethod
    def weights_file(cls, settings: PreprocessSettings, root: Path) -> Path | None:
        """The local file with the codec's weights, a copy of which every experiment gets; None without one."""
        return None if settings.codec_checkpoint is None else resolve_path(settings.codec_checkpoint, root)

    @classmethod
    def fit_to(
        cls, path: Path, settings: PreprocessSettings, root: Path, audio: Callable[[], Iterable[Tensor]]
    ) -> None:
        """Fit the codec on (N,) waveforms and write it to `path`, unless the file there has the same settings.

        Called only if `is_fitted`.
        """
        raise NotImplementedError

    @property
    def vectors(self) -> Tensor | None:
        """The vectors of the codes (Q, codebook_size, W): what is decoded is their sum. None if there are none."""
        return None

    @property
    def frame_rate_hz(self) -> float:
        return self.sample_rate_hz / self.hop_samples

    @torch.no_grad()
    def encode(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (B, N) float32 audio in [-1, 1] with `audio_lens` (B,) samples.

        Returns codes (B, T, Q) int64, 0 after each row's end, and their lengths (B,) in frames: samples / hop, rounded
        up. Raises ValueError if a length is negative or exceeds N.
        """
        audio, codes_lens = pad_to_hops(audio.to(self.device), audio_lens.to(self.device), self.hop_samples)
        codes = self._encode(audio, codes_lens)
        return codes.masked_fill(_is_pad(codes_lens, codes.shape[1])[:, :, None], 0), codes_lens

    @torch.no_grad()
    def decode(self, codes: Tensor, codes_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Decode codes (B, T, q) with `codes_lens` (B,) frames; codes after a row's end are ignored.

        With fewer than Q codebooks the sound is coarser. Returns audio (B, N) float32, 0 after each row's end, and its
        lengths (B,) in samples. Raises ValueError if q is 0 or exceeds Q, or a length is negative or exceeds T.
        """
        codes, codes_lens = codes.to(self.device), codes_lens.to(self.device)
        if not 1 <= codes.shape[2] <= self.num_codebooks:
            raise ValueError(f"codes must have 1 to {self.num_codebooks} codebooks, not {codes.shape[2]}")
        if codes_lens.numel() and (int(codes_lens.max()) > codes.shape[1] or int(codes_lens.min()) < 0):
            raise ValueError(f"codes_lens must lie between 0 and {codes.shape[1]}")
        codes = codes[:, : int(codes_lens.max()) if len(codes_lens) else 0]
        codes = codes.masked_fill(_is_pad(codes_lens, codes.shape[1])[:, :, None], 0)
        audio_lens = codes_lens * self.hop_samples
        audio = self._decode(codes.long(), codes_lens)
        return audio.masked_fill(_is_pad(audio_lens, audio.shape[1]), 0.0), audio_lens

    @abstractmethod
    def _encode(self, audio: Tensor, codes_lens: Tensor) -> Tensor:
        """(B, T * hop) audio, zero after each row's end, to (B, T, Q) int64; frames after the end may be anything."""

    @abstractmethod
    def _decode(self, codes: Tensor, codes_lens: Tensor) -> Tensor:
        """(B, T, q) int64, 0 after each row's end, to (B, T * hop) audio; samples after the end may be anything."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Codec":
        """Move to `device` in place; returns itself."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hex digest of everything that determines the codes: equal only if the same audio gets the same codes."""
