"""Losses of the learned codec: spectral distances, and a discriminator of spectrograms."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

# Long windows resolve harmonics, short ones the phase within a pitch period.
WINDOWS = (64, 128, 256, 512, 1024, 2048)
BANDS = (6, 10, 20, 40, 80, 160)
LOG_FLOOR = 1e-4
DISCRIMINATOR_WINDOWS = (256, 512, 1024)


def spectrogram(audio: Tensor, window: Tensor) -> Tensor:
    """(B, N) audio to a complex spectrogram (B, F, T) with four frames per window."""
    return torch.stft(audio, len(window), len(window) // 4, window=window, return_complex=True, pad_mode="constant")


class MelDistance(nn.Module):
    """The mean absolute difference of log-mel spectrograms at several resolutions (arXiv 2306.06546, section 3.4)."""

    def __init__(self, sample_rate_hz: int) -> None:
        super().__init__()
        for i, (size, bands) in enumerate(zip(WINDOWS, BANDS, strict=True)):
            filters = torchaudio.functional.melscale_fbanks(
                size // 2 + 1, 0.0, sample_rate_hz / 2, bands, sample_rate_hz, norm=None, mel_scale="htk"
            )
            # Filters that are narrower than a bin are empty without this.
            filters = filters / filters.sum(0).clamp(min=1e-3)
            self.register_buffer(f"window_{i}", torch.hann_window(size), persistent=False)
            self.register_buffer(f"filters_{i}", filters, persistent=False)

    def forward(self, audio: Tensor, target: Tensor) -> Tensor:
        """The distance of (B, N) audio to the target."""
        distance = audio.new_zeros(())
        for i in range(len(WINDOWS)):
            window, filters = self.get_buffer(f"window_{i}"), self.get_buffer(f"filters_{i}")
            # Both in one call: a short transform is bound by its overhead.
            spectra = spectrogram(torch.cat([audio, target]), window)
            power = spectra.real.square() + spectra.imag.square()
            magnitude = (power.transpose(1, 2) @ filters / window.sum() + LOG_FLOOR**2).sqrt()
            first, second = magnitude.log().chunk(2)
            distance = distance + (first - second).abs().mean()
        return distance / len(WINDOWS)


class SpectrogramDiscriminator(nn.Module):
    """Says of each place of a complex spectrogram whether it is a recording's (arXiv 2210.13438, section 3.4)."""

    window: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        strides, channels = ((4, 1), (2, 1), (2, 2), (1, 1)), (2, width, width, width, width)
        kernels, margins = ((9, 3), (5, 5), (5, 5), (3, 3)), ((4, 1), (2, 2), (2, 2), (1, 1))
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(
                nn.Conv2d(channels[i], channels[i + 1], kernels[i], strides[i], margins[i])
            )
            for i in range(4)
        )
        self.head = nn.utils.parametrizations.weight_norm(nn.Conv2d(width, 1, (3, 3), padding=(1, 1)))

    def forward(self, audio: Tensor) -> list[Tensor]:
        """The features of every layer for (B, N) audio; the last are the scores."""
        spectrum = spectrogram(audio, self.window)
        # Magnitudes differ by orders. A root keeps their phase, and makes quiet places count.
        scale = (spectrum.real.square() + spectrum.imag.square() + 1e-5).pow(-0.35)
        x = torch.stack([spectrum.real * scale, spectrum.imag * scale], dim=1)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return [*features, self.head(x)]


class Discriminators(nn.Module):
    """Discriminators of spectrograms at several resolutions."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectrogramDiscriminator(size, width) for size in DISCRIMINATOR_WINDOWS)

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        return [part(audio) for part in self.parts]


def discriminator_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """The hinge loss: scores of recordings above 1, of decoded speech below -1."""
    pairs = zip(real, fake, strict=True)
    return torch.stack([F.relu(1 - r[-1]).mean() + F.relu(1 + f[-1]).mean() for r, f in pairs]).mean()


def adversarial_losses(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """The decoder's losses: its scores, and the distance of its features to a recording's, relative to their size."""
    scores = torch.stack([F.relu(1 - f[-1]).mean() for f in fake]).mean()
    distances = [
        (a.detach() - b).abs().mean() / a.detach().abs().mean().clamp(min=1e-3)
        for r, f in zip(real, fake, strict=True)
        for a, b in zip(r[:-1], f[:-1], strict=True)
    ]
    return scores, torch.stack(distances).mean()
