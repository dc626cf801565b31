"""A stand-in for EnCodec's weights: the real architecture, seeded and calibrated on speech.

Plain random weights have codebooks of zeros, so that every code is 0. Here each encoder convolution is scaled to zero
mean and unit variance and each codebook is filled with residual latents. To write one:
`python -m tests.support.standin_encodec OUT AUDIO...`
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
import torchaudio
from encodec import EncodecModel
from torch import nn

MAX_SECONDS = 30


def make_standin(audio_paths: Sequence[Path], out_path: Path, seed: int = 0) -> None:
    """Write the state dict of a calibrated 24 kHz model, for `preprocess.codec_checkpoint`.

    The speech at `audio_paths` may have a few seconds in all; more than 30 are not used.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.simplefilter("ignore", FutureWarning)
        model = EncodecModel.encodec_model_24khz(pretrained=False)
        latents = _calibrate_encoder(model, _read(audio_paths, model))
        _fill_codebooks(model, latents)
    torch.save(model.state_dict(), out_path)


def _read(audio_paths: Sequence[Path], model: EncodecModel) -> torch.Tensor:
    """All audio, concatenated to (N,), N a multiple of the hop."""
    parts = []
    for path in audio_paths:
        audio, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        parts.append(torchaudio.functional.resample(torch.from_numpy(audio.mean(1)), rate_hz, model.sample_rate))
    joined = torch.cat(parts)[: MAX_SECONDS * model.sample_rate]
    return joined[: len(joined) // model.encoder.hop_length * model.encoder.hop_length]


def _calibrate_encoder(model: EncodecModel, audio: torch.Tensor) -> torch.Tensor:
    """Scale every convolution of the encoder in the order of one forward pass; returns its (T, D) latents."""

    def scale(conv: Any, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        mean, std = output.mean((0, 2)), output.std((0, 2)).clamp(min=1e-5)
        conv.weight_g.div_(std[:, None, None])
        conv.bias.sub_(mean).div_(std)
        return (output - mean[:, None]) / std[:, None]

    hooks = [module.register_forward_hook(scale) for module in model.encoder.modules() if isinstance(module, nn.Conv1d)]
    latents = model.encoder(audio[None, None])[0].T
    for hook in hooks:
        hook.remove()
    return latents


def _fill_codebooks(model: EncodecModel, latents: torch.Tensor) -> None:
    """Fill each stage with residual latents, mixed in pairs: an unmixed latent would leave no residual of itself."""
    for layer in model.quantizer.vq.layers:
        book = layer._codebook
        pairs = latents[torch.randint(len(latents), (2, book.codebook_size))]
        embed = torch.lerp(pairs[0], pairs[1], torch.rand(book.codebook_size, 1))
        book.embed.copy_(embed)
        nearest = book.quantize(latents)
        latents = latents - embed[nearest]
        book.cluster_size.copy_(torch.bincount(nearest, minlength=book.codebook_size).clamp(min=1))
        book.embed_avg.copy_(embed * book.cluster_size[:, None])
        book.inited.fill_(1)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m tests.support.standin_encodec OUT AUDIO...")
    make_standin([Path(name) for name in sys.argv[2:]], Path(sys.argv[1]))
