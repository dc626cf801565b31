"""A tiny learned codec with usable codebooks."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from config.codec_schema import SpeechRVQSettings
from processors.codecs.base import pad_to_hops
from processors.codecs.speech_net import SpeechNet, frame_mask
from training.codec.quantizer import ResidualQuantizer


def tiny_speech_net(
    waveforms: Sequence[torch.Tensor], sample_rate_hz: int, seed: int = 0
) -> tuple[SpeechNet, SpeechRVQSettings]:
    """An untrained network whose codebooks fit the latents that it gives for these waveforms."""
    settings = SpeechRVQSettings(
        sample_rate_hz=sample_rate_hz,
        frame_rate_hz=50.0,
        num_mels=40,
        num_codebooks=8,
        codebook_size=16,
        latent_dim=16,
        encoder_dim=16,
        encoder_layers=2,
        decoder_dim=16,
        decoder_layers=2,
        decoder_fine_layers=2,
    )
    torch.manual_seed(seed)
    net = SpeechNet(settings)
    audio_lens = torch.tensor([len(row) for row in waveforms])
    padded, codes_lens = pad_to_hops(pad_sequence(list(waveforms), batch_first=True), audio_lens, net.hop_samples)
    with torch.no_grad():
        latents = net.encoder(padded, codes_lens)
        latents = latents[frame_mask(codes_lens, latents.shape[1])[..., 0].bool()]
        # Untrained latents are all alike: codes of what they share would leave little to tell apart.
        net.encoder.project.bias -= latents.mean(0)
    ResidualQuantizer(net.codebooks).start(latents - latents.mean(0))
    return net, settings
