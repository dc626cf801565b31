"""The Descript Audio Codec (arXiv 2306.06546) at 16, 24 or 44.1 kHz, through transformers."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from config.schema import PreprocessSettings
from processors.codecs.base import is_pad
from processors.codecs.pretrained import PretrainedCodec, RowGroup
from utils.errors import UserError

HUB_NAMES = {16000: "descript/dac_16khz", 24000: "descript/dac_24khz", 44100: "descript/dac_44khz"}


class Dac(PretrainedCodec):
    """Convolutions around residual codebooks, whose entries are compared by direction."""

    file_name = "dac"
    library_class = "DacModel"
    model_type = "dac"
    size_keys = ("codebook_size", "sampling_rate", "n_codebooks")

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.hop_samples = int(model.config.hop_length)
        self.num_codebooks = int(model.config.n_codebooks)
        self.codebook_size = int(model.config.codebook_size)

    @classmethod
    def default_weights(cls, settings: PreprocessSettings) -> str:
        if settings.sample_rate not in HUB_NAMES:
            rates = ", ".join(map(str, HUB_NAMES))
            raise UserError(f"preprocess.sample_rate: there are weights of Dac for {rates}, not {settings.sample_rate}")
        return HUB_NAMES[settings.sample_rate]

    @property
    def vectors(self) -> Tensor:
        layers = self.model.quantizer.quantizers[: self.num_codebooks]
        return torch.stack([layer.out_proj(layer.codebook.weight.T[None])[0].T for layer in layers])

    def coding_weights(self) -> Iterator[Tensor]:
        yield from self.model.encoder.state_dict().values()
        for layer in self.model.quantizer.quantizers[: self.num_codebooks]:
            yield from layer.state_dict().values()

    def row_groups(self, codes_lens: Tensor) -> Iterator[RowGroup]:
        rows = codes_lens.nonzero().flatten().tolist()
        if rows:
            yield rows, codes_lens[rows]

    def encode_rows(self, audio: Tensor, lens: Tensor) -> Tensor:
        with _zero_padding(self.model.encoder, audio.shape[1], lens * self.hop_samples):
            latents = self.model.encoder(audio[:, None])
        return self.model.quantizer(latents, self.num_codebooks)[1].transpose(1, 2)

    def decode_rows(self, codes: Tensor, lens: Tensor) -> Tensor:
        latents = self.model.quantizer.from_codes(codes.transpose(1, 2))[0]
        with _zero_padding(self.model.decoder, codes.shape[1], lens) as ends:
            audio = self.model.decoder(latents)[:, 0]
        return audio.masked_fill(is_pad(ends[audio.shape[1]], audio.shape[1]), 0)


@contextmanager
def _zero_padding(network: nn.Module, length: int, lens: Tensor) -> Iterator[dict[int, Tensor]]:
    """While active, convolutions read zeros after each row's end, as they do when a row is alone.

    `length` is the number of positions of the network's input, `lens` (b,) those of each row. Gives the rows' lengths
    at each length that occurred in the network. Without this a biased activation would leak from the padding.
    """
    ends = {length: lens}

    def before(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        return (x.masked_fill(is_pad(ends[x.shape[2]], x.shape[2])[:, None], 0),)

    def after(conv: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        ends[output.shape[2]] = _output_lens(conv, ends[inputs[0].shape[2]])

    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                stack.callback(module.register_forward_pre_hook(before).remove)
                stack.callback(module.register_forward_hook(after).remove)
        yield ends


def _output_lens(conv: Any, lens: Tensor) -> Tensor:
    """The positions that a convolution makes of each row's positions (b,)."""
    stride, padding, reach = conv.stride[0], conv.padding[0], conv.dilation[0] * (conv.kernel_size[0] - 1)
    if conv.transposed:
        return (lens - 1) * stride - 2 * padding + reach + conv.output_padding[0] + 1
    return (lens + 2 * padding - reach - 1) // stride + 1
