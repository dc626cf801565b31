"""Log-mel analysis of waveforms, and its inversion by Griffin-Lim."""

import math
from itertools import count

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

MAX_PHASE_HOP_SECONDS = 1 / 75
MIN_WINDOW_SECONDS = 0.04
# Added to magnitudes before the logarithm. What lies below is inaudible beside speech, and codebooks that distinguish
# degrees of silence have fewer entries left for speech.
MEL_FLOOR = 2e-3
# Fast Griffin-Lim (Perraudin, Balazs and Søndergaard, 2013).
MOMENTUM = 0.99
INVERSION_UPDATES = 10


class MelAnalysis:
    """Log-mel frames of a waveform, and a waveform from log-mel frames.

    A frame is the natural logarithm of magnitudes above a floor. Frame i is centred on samples [i, i + 1) *
    `hop_samples`, with zeros around the waveform, so N samples give N / `hop_samples` frames.
    """

    def __init__(self, sample_rate_hz: int, hop_samples: int, num_mels: int) -> None:
        self.hop_samples = hop_samples
        # Griffin-Lim needs more overlap than the coded frames have.
        self.phase_steps = _division(hop_samples, sample_rate_hz * MAX_PHASE_HOP_SECONDS)
        phase_hop = hop_samples // self.phase_steps
        # The window is at least one hop of a coded frame long, so that every sample is in a frame.
        self.n_fft = phase_hop * max(math.ceil(sample_rate_hz * MIN_WINDOW_SECONDS / phase_hop), self.phase_steps)
        self.window = torch.hann_window(self.n_fft)
        self.filters = torchaudio.functional.melscale_fbanks(
            self.n_fft // 2 + 1, 0.0, sample_rate_hz / 2, num_mels, sample_rate_hz, norm="slaney", mel_scale="slaney"
        )
        self.inverse = torch.linalg.pinv(self.filters)

    def to(self, device: torch.device) -> None:
        self.window, self.filters, self.inverse = (x.to(device) for x in (self.window, self.filters, self.inverse))

    def log_mel(self, audio: Tensor) -> Tensor:
        """(..., N) audio, N a multiple of `hop_samples`, to (..., N / hop_samples, num_mels)."""
        return (self._mel(audio) + MEL_FLOOR).log()

    def _mel(self, audio: Tensor) -> Tensor:
        """(..., N) audio, N a multiple of `hop_samples`, to (..., N / hop_samples, num_mels) magnitudes."""
        left = (self.n_fft - self.hop_samples) // 2
        audio = F.pad(audio, (left, self.n_fft - self.hop_samples - left))
        return torch.fft.rfft(audio.unfold(-1, self.n_fft, self.hop_samples) * self.window).abs() @ self.filters

    def waveform(self, log_mel: Tensor, iterations: int) -> Tensor:
        """(M, num_mels) to (M * hop_samples,), by `iterations` of fast Griffin-Lim from zero phase."""
        mel = (log_mel.exp() - MEL_FLOOR).clamp(min=0)
        magnitude = self._magnitude(mel)
        if self.phase_steps > 1:
            magnitude = F.interpolate(magnitude.T[None], scale_factor=float(self.phase_steps), mode="linear")[0].T
        hop = self.hop_samples // self.phase_steps
        left, num_samples = (self.n_fft - hop) // 2, len(magnitude) * hop
        envelope = self._overlap_add(self.window.expand(len(magnitude), -1), hop).clamp(min=1e-3)
        spectrum = magnitude + 0j
        previous = torch.zeros_like(spectrum)
        for _ in range(iterations):
            audio = self._overlap_add(torch.fft.irfft(spectrum, self.n_fft), hop) / envelope
            # Outside of the waveform, samples are known to be zero.
            audio[:left] = 0
            audio[left + num_samples :] = 0
            rebuilt = torch.fft.rfft(audio.unfold(0, self.n_fft, hop) * self.window)
            phase = previous.mul_(-MOMENTUM / (1 + MOMENTUM)).add_(rebuilt)
            # Keep the phase, and restore the known magnitude.
            norm = (phase.real.square() + phase.imag.square()).add_(1e-20).rsqrt_()
            spectrum, previous = phase * norm.mul_(magnitude), rebuilt
        audio = self._overlap_add(torch.fft.irfft(spectrum, self.n_fft), hop) / envelope
        audio = audio[left : left + num_samples]
        # Inconsistent phases lower the level: scale it back.
        return audio * (mel.norm() / self._mel(audio).norm().clamp(min=1e-6))

    def _magnitude(self, mel: Tensor) -> Tensor:
        """(M, num_mels) to the non-negative (M, n_fft / 2 + 1) magnitudes that fit them best, approximately.

        Multiplicative updates, as in non-negative matrix factorization.
        """
        magnitude = (mel @ self.inverse).clamp(min=1e-8)
        target = mel @ self.filters.T
        for _ in range(INVERSION_UPDATES):
            magnitude = magnitude * target / (magnitude @ self.filters @ self.filters.T).clamp(min=1e-10)
        return magnitude

    def _overlap_add(self, frames: Tensor, hop: int) -> Tensor:
        """Window (M, n_fft) frames and add them up to ((M - 1) * hop + n_fft,); n_fft is a multiple of the hop."""
        frames = frames * self.window
        overlap = self.n_fft // hop
        audio = frames.new_zeros(len(frames) + overlap - 1, hop)
        for i in range(overlap):
            audio[i : i + len(frames)] += frames[:, i * hop : (i + 1) * hop]
        return audio.flatten()


def _division(size: int, limit: float) -> int:
    """The smallest divisor of `size` that gives parts of at most `limit`, or of 1."""
    return next(parts for parts in count(1) if size % parts == 0 and (size <= limit * parts or parts == size))
