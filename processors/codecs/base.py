"""What every codec offers: waveforms to codes and back, in batches with lengths."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F

from config.schema import PreprocessSettings


def num_whole_frames(num_samples: torch.Tensor, hop_samples: int) -> torch.Tensor:
    """Frames of waveforms with these numbers of samples; a last partial hop is a frame too."""
    return (num_samples + hop_samples - 1) // hop_samples


def fill_whole_hops(
    audio: torch.Tensor, audio_lens: torch.Tensor, hop_samples: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Zero everything after each row's own samples and make the batch a whole number of hops long.

    What a row is encoded from then does not depend on the batch that it is in.

    Args:
        audio: (B, N) float32.
        audio_lens: (B,) samples of each row.

    Returns:
        (B, T * hop_samples) audio and (B,) frames of each row.

    Raises:
        ValueError: a length is negative or exceeds N.
    """
    if audio_lens.numel() and (int(audio_lens.max()) > audio.shape[1] or int(audio_lens.min()) < 0):
        raise ValueError(f"audio_lens must lie between 0 and {audio.shape[1]}")
    codes_lens = num_whole_frames(audio_lens, hop_samples)
    num_samples = int(codes_lens.max()) * hop_samples if len(codes_lens) else 0
    audio = F.pad(audio, (0, max(0, num_samples - audio.shape[1])))[:, :num_samples]
    return audio.masked_fill(_is_pad(audio_lens, num_samples), 0.0), codes_lens


def _is_pad(lens: torch.Tensor, size: int) -> torch.Tensor:
    """(B, size) mask that is True from each row's length on."""
    return torch.arange(size, device=lens.device) >= lens[:, None]


class Codec(ABC):
    """Waveforms (B, N) to codes (B, T, Q) and back, on `device`; neither direction keeps gradients.

    Attributes:
        sample_rate_hz: rate of the audio on both sides.
        hop_samples: samples per frame.
        num_codebooks: Q.
        codebook_size: codes lie in [0, codebook_size).
        device: where it computes and where its results are.
    """

    file_name: ClassVar[str]
    """Of the codec's own file in an experiment's folder: local weights, or fitted codebooks."""
    is_fitted: ClassVar[bool] = False
    """Whether stage 1 fits the codec on the corpus, into that file in `processed_dir`."""

    @classmethod
    @abstractmethod
    def open(cls, settings: PreprocessSettings, own_file: Path | None, root: Path) -> "Codec":
        """The codec as the settings ask for it, on the CPU.

        Args:
            own_file: the codec's own file; where it is there it goes before `preprocess.codec_checkpoint`.
            root: where a relative `preprocess.codec_checkpoint` starts.

        Raises:
            UserError: weights or codebooks are missing or damaged, or were made for other settings.
        """

    @classmethod
    def fit_to(
        cls, path: Path, settings: PreprocessSettings, root: Path, audio: Callable[[], Iterable[torch.Tensor]]
    ) -> None:
        """Where `is_fitted`, fit the codec on (N,) waveforms into `path`, unless the file there fits the settings."""
        raise NotImplementedError

    sample_rate_hz: int
    hop_samples: int
    num_codebooks: int
    codebook_size: int
    device: torch.device

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second."""
        return self.sample_rate_hz / self.hop_samples

    @torch.no_grad()
    def encode(self, audio: torch.Tensor, audio_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of a batch of waveforms.

        Args:
            audio: (B, N) float32 in [-1, 1].
            audio_lens: (B,) samples of each row.

        Returns:
            codes (B, T, Q) int64, 0 after each row's end, and codes_lens (B,) frames: samples / hop, rounded up.

        Raises:
            ValueError: a length is negative or exceeds N.
        """
        audio, codes_lens = fill_whole_hops(audio.to(self.device), audio_lens.to(self.device), self.hop_samples)
        codes = self._encode(audio, codes_lens)
        return codes.masked_fill(_is_pad(codes_lens, codes.shape[1])[:, :, None], 0), codes_lens

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, codes_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Waveforms of a batch of codes.

        Args:
            codes: (B, T, q), the first q codebooks; fewer than Q give a coarser sound. What stands after a row's
                end is not looked at.
            codes_lens: (B,) frames of each row.

        Returns:
            audio (B, N) float32, 0 after each row's end, and audio_lens (B,) samples: frames times hop.

        Raises:
            ValueError: q is 0 or more than Q, or a length is negative or exceeds T.
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
    def _encode(self, audio: torch.Tensor, codes_lens: torch.Tensor) -> torch.Tensor:
        """(B, T * hop) audio, zero after each row's end, to (B, T, Q) int64; what it gives after the end is dropped."""

    @abstractmethod
    def _decode(self, codes: torch.Tensor, codes_lens: torch.Tensor) -> torch.Tensor:
        """(B, T, q) int64, 0 after each row's end, to (B, T * hop); what it gives after the end is dropped."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Codec":
        """Move to `device` in place; returns itself."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of what determines the codes: equal exactly where the same audio gets the same codes."""
