"""X-Codec 2 (arXiv 2502.04128, section 2.2): 16 kHz at 50 frames a second, through transformers."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from config.schema import PreprocessSettings
from processors.codecs.pretrained import PretrainedCodec


class XCodec2(PretrainedCodec):
    """Wav2Vec2-BERT's features and a convolutional encoder, quantized to eight digits of four levels in each frame.

    The digits together are one code of 65536. Here the first half of the digits is codebook 0, and the second half
    codebook 1, of 256 codes each: the same information, in tables of a usual size.
    """

    file_name = "xcodec2"
    library_class = "Xcodec2Model"
    model_type = "xcodec2"
    size_keys = ("sampling_rate",)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        from transformers import Xcodec2FeatureExtractor

        levels = list(model.config.quantization_levels)
        self.num_first = len(levels) // 2
        self.hop_samples = int(model.config.hop_length)
        self.num_codebooks = 2
        self.codebook_size = math.prod(levels[: self.num_first])
        self.features = Xcodec2FeatureExtractor(sampling_rate=self.sample_rate_hz, hop_length=self.hop_samples)

    @classmethod
    def default_weights(cls, settings: PreprocessSettings) -> str:
        return "HKUSTAudio/xcodec2-hf"

    @classmethod
    def _check_config(cls, content: dict[str, Any]) -> None:
        super()._check_config(content)
        levels = content.get("quantization_levels", [4] * 8)
        if not isinstance(levels, list) or not all(isinstance(level, int) and 2 <= level <= 16 for level in levels):
            raise ValueError("quantization_levels of config.json must be a list of numbers from 2 to 16")
        half = len(levels) // 2
        if not 2 <= len(levels) <= 8 or math.prod(levels[:half]) != math.prod(levels[half:]):
            raise ValueError("quantization_levels of config.json must have two halves of equally many codes")

    @property
    def vectors(self) -> Tensor:
        project = self.model.quantizer.project_out
        every = torch.arange(self.codebook_size, device=self.device)
        first, second = (self._digits(every, codebook) @ project.weight.T for codebook in (0, 1))
        return torch.stack([first + project.bias, second])

    def coding_weights(self) -> Iterator[Tensor]:
        for name, tensor in self.model.state_dict().items():
            if not name.startswith("acoustic_decoder."):
                yield tensor

    def encode_rows(self, audio: Tensor, lens: Tensor) -> Tensor:
        # The extractor adds a sample before it pads to whole frames: without it, a last frame would have no audio.
        inputs = self.features(
            list(audio[:, :-1].cpu()), sampling_rate=self.sample_rate_hz, return_tensors="pt", device=str(self.device)
        )
        # Rows have one length, so there is nothing to mask.
        values, features = (inputs[name].to(self.device) for name in ("input_values", "input_features"))
        codes = self.model.encode(values, features).audio_codes[:, 0].long()
        return torch.stack([codes % self.codebook_size, codes // self.codebook_size], dim=-1)

    def decode_rows(self, codes: Tensor, lens: Tensor) -> Tensor:
        # The levels of a missing second codebook are the middle ones, which are zero.
        latents = sum(self.vectors[book][codes[..., book]] for book in range(codes.shape[2]))
        return self.model.decode(latents=torch.as_tensor(latents).transpose(1, 2)).audio_values[:, 0]

    def _digits(self, codes: Tensor, codebook: int) -> Tensor:
        """Values (N, D) of all digits for codes (N,) of one codebook; the digits of the other codebook are zero."""
        half = slice(0, self.num_first) if codebook == 0 else slice(self.num_first, None)
        levels = torch.tensor(self.model.config.quantization_levels, device=codes.device)[half]
        basis = torch.cumprod(torch.cat([levels.new_ones(1), levels[:-1]]), 0)
        middle = levels // 2
        values = ((codes[:, None] // basis) % levels - middle) / middle
        digits = torch.zeros(len(codes), len(self.model.config.quantization_levels), device=codes.device)
        digits[:, half] = values
        return digits
