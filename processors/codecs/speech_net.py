"""The network of SpeechRVQ: log-mel frames to codes, and codes to magnitudes and phases of a waveform."""

import math

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from config.codec_schema import SpeechRVQSettings

# Added to magnitudes before the logarithm: what lies below is inaudible beside speech.
MEL_FLOOR = 1e-3
# Magnitudes are exponentials of what the decoder predicts. Above this they only occur when it diverges.
MAX_MAGNITUDE = 100.0


class ShortTimeTransform(nn.Module):
    """The short-time Fourier transform and its inverse, with N samples as exactly N / hop frames.

    Frame i is centred on samples [i, i + 1) * hop; around the waveform are zeros.
    """

    window: Tensor

    def __init__(self, hop_samples: int) -> None:
        super().__init__()
        self.hop_samples = hop_samples
        self.n_fft = 4 * hop_samples
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """(B, N) audio to (B, N / hop, n_fft / 2 + 1) complex."""
        margin = (self.n_fft - self.hop_samples) // 2
        frames = F.pad(audio, (margin, self.n_fft - self.hop_samples - margin)).unfold(1, self.n_fft, self.hop_samples)
        return torch.fft.rfft(frames * self.window)

    def inverse(self, spectrum: Tensor, is_frame: Tensor) -> Tensor:
        """(B, T, n_fft / 2 + 1) complex to (B, T * hop); frames where `is_frame` (B, T, 1) is 0 do not exist."""
        frames = torch.fft.irfft(spectrum, self.n_fft) * self.window * is_frame
        # The squared windows of the existing frames sum to less at a row's ends. Division by the sum makes up for it.
        envelope = self._overlap_add(self.window.square() * is_frame)
        return self._overlap_add(frames) / envelope.clamp(min=1e-3)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """Sum (B, T, n_fft) frames at their places, without the margins: (B, T * hop)."""
        batch, num_frames, _ = frames.shape
        steps, hop = self.n_fft // self.hop_samples, self.hop_samples
        parts = frames.reshape(batch, num_frames, steps, hop)
        # Part k of frame i lies in hop i + k.
        shifted = [F.pad(parts[:, :, k], (0, 0, k, steps - 1 - k)) for k in range(steps)]
        summed = torch.stack(shifted).sum(0).reshape(batch, -1)
        margin = (self.n_fft - hop) // 2
        return summed[:, margin : margin + num_frames * hop]


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution over frames and an MLP on each frame (arXiv 2201.03545; in one dimension, 2306.00814)."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, 3 * width)
        self.contract = nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1 / num_layers))

    def forward(self, x: Tensor, is_frame: Tensor) -> Tensor:
        """(B, T, D); frames where `is_frame` (B, T, 1) is 0 are read as zeros, as those beyond T are."""
        hidden = self.depthwise((x * is_frame).transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.contract(F.gelu(self.expand(self.norm(hidden))))


class ConvNeXt(nn.Module):
    """Blocks between two norms."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.first_norm = nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, num_layers) for _ in range(num_layers))
        self.last_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor, is_frame: Tensor) -> Tensor:
        x = self.first_norm(x)
        for block in self.blocks:
            x = block(x, is_frame)
        return self.last_norm(x)


class MelEncoder(nn.Module):
    """Waveforms to latent vectors, one for each code frame; a code frame reads two mel frames."""

    filters: Tensor

    def __init__(self, settings: SpeechRVQSettings, hop_samples: int) -> None:
        super().__init__()
        self.transform = ShortTimeTransform(hop_samples // 2)
        num_bins, rate_hz = self.transform.n_fft // 2 + 1, settings.sample_rate_hz
        filters = torchaudio.functional.melscale_fbanks(
            num_bins, 0.0, rate_hz / 2, settings.num_mels, rate_hz, "slaney", "slaney"
        )
        self.register_buffer("filters", filters, persistent=False)
        self.embed = nn.Linear(2 * settings.num_mels, settings.encoder_dim)
        self.body = ConvNeXt(settings.encoder_dim, settings.encoder_layers)
        self.project = nn.Linear(settings.encoder_dim, settings.latent_dim)

    def forward(self, audio: Tensor, codes_lens: Tensor) -> Tensor:
        """(B, T * hop) audio, zero after each row's `codes_lens` (B,) frames, to latents (B, T, latent_dim)."""
        log_mel = (self.transform(audio).abs() @ self.filters + MEL_FLOOR).log()
        x = self.embed(log_mel.unflatten(1, (-1, 2)).flatten(2))
        return self.project(self.body(x, frame_mask(codes_lens, x.shape[1])))


class WaveformDecoder(nn.Module):
    """Quantized latents to waveforms: blocks at the code frame rate, blocks at twice that, and magnitudes and phases.

    The last step is Vocos's (arXiv 2306.00814, section 3.3): the inverse transform does all of the upsampling.
    """

    def __init__(self, settings: SpeechRVQSettings, hop_samples: int) -> None:
        super().__init__()
        width = settings.decoder_dim
        self.transform = ShortTimeTransform(hop_samples // 2)
        self.embed = nn.Conv1d(settings.latent_dim, width, 7, padding=3)
        self.coarse = ConvNeXt(width, settings.decoder_layers)
        self.upsample = nn.Linear(width, 2 * width)
        self.fine = ConvNeXt(width, settings.decoder_fine_layers)
        self.head = nn.Linear(width, self.transform.n_fft + 2)

    def forward(self, latents: Tensor, codes_lens: Tensor) -> Tensor:
        """(B, T, latent_dim) to (B, T * hop); what lies after a row's `codes_lens` (B,) frames is not read."""
        is_frame = frame_mask(codes_lens, latents.shape[1])
        x = self.embed((latents * is_frame).transpose(1, 2)).transpose(1, 2)
        x = self.upsample(self.coarse(x, is_frame)).unflatten(2, (2, -1)).flatten(1, 2)
        is_frame = frame_mask(2 * codes_lens, x.shape[1])
        magnitude, phase = self.head(self.fine(x, is_frame)).chunk(2, dim=-1)
        magnitude = magnitude.clamp(max=math.log(MAX_MAGNITUDE)).exp()
        return self.transform.inverse(torch.polar(magnitude, phase), is_frame)


def frame_mask(lens: Tensor, num_frames: int) -> Tensor:
    """(B, T, 1): 1 before each row's length, 0 after it."""
    return (torch.arange(num_frames, device=lens.device) < lens[:, None]).float().unsqueeze(2)


class SpeechNet(nn.Module):
    """Encoder, residual codebooks (Q, codebook_size, latent_dim) and decoder.

    Raises ValueError if a code frame is not an even number of samples.
    """

    codebooks: Tensor

    def __init__(self, settings: SpeechRVQSettings) -> None:
        super().__init__()
        self.hop_samples = round(settings.sample_rate_hz / settings.frame_rate_hz)
        if self.hop_samples % 2 or self.hop_samples * settings.frame_rate_hz != settings.sample_rate_hz:
            raise ValueError(f"{settings.frame_rate_hz:g} Hz is not an even number of samples per frame")
        self.encoder = MelEncoder(settings, self.hop_samples)
        self.decoder = WaveformDecoder(settings, self.hop_samples)
        shape = settings.num_codebooks, settings.codebook_size, settings.latent_dim
        self.register_buffer("codebooks", torch.zeros(shape))

    def quantize(self, latents: Tensor) -> Tensor:
        """Codes (..., Q) of latents (..., latent_dim): each codebook codes what those before it left over."""
        residual, codes = latents, []
        for codebook in self.codebooks:
            codes.append(nearest(residual, codebook))
            residual = residual - codebook[codes[-1]]
        return torch.stack(codes, dim=-1)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Latents (..., latent_dim) of codes (..., q), the sum of their entries in the first q codebooks."""
        books = torch.arange(codes.shape[-1], device=codes.device)
        return self.codebooks[books, codes].sum(-2)


def nearest(latents: Tensor, codebook: Tensor) -> Tensor:
    """The index (...) of the nearest of (K, W) entries for latents (..., W)."""
    scores = torch.addmm(codebook.square().sum(1) / 2, latents.flatten(0, -2), codebook.T, alpha=-1)
    return scores.argmin(1).unflatten(0, latents.shape[:-1])
