"""Mimi (arXiv 2410.00037, section 3.3): 24 kHz at 12.5 frames a second, through transformers."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from config.schema import PreprocessSettings
from processors.codecs.pretrained import PretrainedCodec, RowGroup


class Mimi(PretrainedCodec):
    """One semantic codebook, and residual codebooks for the sound; all of its networks are causal."""

    file_name = "mimi"
    library_class = "MimiModel"
    model_type = "mimi"
    size_keys = ("codebook_size", "sampling_rate", "num_quantizers", "num_semantic_quantizers")

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        config = model.config
        self.hop_samples = round(config.sampling_rate / config.frame_rate)
        self.num_codebooks = int(config.num_quantizers)
        self.codebook_size = int(config.codebook_size)
        self.num_semantic = int(config.num_semantic_quantizers)

    @classmethod
    def default_weights(cls, settings: PreprocessSettings) -> str:
        return "kyutai/mimi"

    @property
    def vectors(self) -> Tensor:
        quantizer, tables = self.model.quantizer, []
        for part in (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer):
            for layer in part.layers:
                vectors = layer.codebook.embed
                if part.output_proj is not None:
                    vectors = vectors @ part.output_proj.weight[:, :, 0].T
                tables.append(vectors)
        return torch.stack(tables[: self.num_codebooks])

    def to(self, device: torch.device | str) -> "Mimi":
        super().to(device)
        for module in self.model.modules():
            # The library computes codebooks once, and keeps them where they were computed.
            if hasattr(module, "_embed"):
                module._embed = None
        return self

    def coding_weights(self) -> Iterator[Tensor]:
        num_acoustic = self.num_codebooks - self.num_semantic
        unused = [f"quantizer.acoustic_residual_vector_quantizer.layers.{index}." for index in range(num_acoustic, 128)]
        for name, tensor in self.model.state_dict().items():
            if not name.startswith(("decoder", "upsample", *unused)):
                yield tensor

    def row_groups(self, codes_lens: Tensor) -> Iterator[RowGroup]:
        # No frame depends on a later one, so padding after a row's end changes nothing before it.
        rows = codes_lens.nonzero().flatten().tolist()
        if rows:
            yield rows, codes_lens[rows]

    def encode_rows(self, audio: Tensor, lens: Tensor) -> Tensor:
        return self.model.encode(audio[:, None], num_quantizers=self.num_codebooks).audio_codes.transpose(1, 2)

    def decode_rows(self, codes: Tensor, lens: Tensor) -> Tensor:
        return self.model.decode(codes.transpose(1, 2)).audio_values[:, 0]
