"""Tiny seeded models of the codecs of transformers, and a tiny Vocos, saved in the formats of the real ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DacConfig, DacModel, MimiConfig, MimiModel

from processors.codecs.dac import Dac
from processors.codecs.encodec import Encodec
from processors.codecs.mimi import Mimi
from processors.codecs.pretrained import PretrainedCodec
from processors.codecs.vocos import VocosNet
from processors.codecs.xcodec2 import XCodec2

NUM_CODEBOOKS = 8
HAS_XCODEC2 = hasattr(transformers, "Xcodec2Model")
"""Releases of transformers for Python 3.10 do not have it."""


def write_dac(folder: Path, waveforms: Sequence[torch.Tensor], num_codebooks: int = NUM_CODEBOOKS) -> Path:
    """A Dac with codebooks of 64, and 75 frames a second at 24 kHz, one of whose strides is odd."""
    torch.manual_seed(0)
    config = DacConfig(
        encoder_hidden_size=4,
        downsampling_ratios=[2, 4, 5, 8],
        decoder_hidden_size=32,
        n_codebooks=num_codebooks,
        codebook_size=64,
        codebook_dim=8,
        sampling_rate=24000,
    )
    model = DacModel(config).eval()
    _vary(model)
    codec = Dac(model)
    latents = _capture(codec, waveforms)
    with torch.no_grad():
        _spread(model.encoder.conv2, latents)
        residual = _capture(codec, waveforms)
        for layer in model.quantizer.quantizers:
            projected = layer.in_proj(residual)
            layer.codebook.weight.copy_(_mixed(projected[0].T, 64))
            # The entry that is nearest to a residual takes something away from it.
            layer.out_proj.weight.copy_(torch.linalg.pinv(layer.in_proj.weight[:, :, 0])[:, :, None])
            residual = residual - layer(residual)[0]
    model.save_pretrained(folder)
    return folder


def write_mimi(folder: Path, waveforms: Sequence[torch.Tensor]) -> Path:
    """A Mimi at 24 kHz with 12.5 frames a second and 8 codebooks of 64."""
    torch.manual_seed(1)
    config = MimiConfig(
        hidden_size=32,
        num_filters=4,
        codebook_size=64,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=NUM_CODEBOOKS,
        upsample_groups=32,
        num_hidden_layers=1,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=20,
        layer_scale_initial_scale=1.0,
    )
    model = MimiModel(config).eval()
    _vary(model)
    codec = Mimi(model)
    with torch.no_grad():
        latents = _capture(codec, waveforms)
        downsample = model.encoder.downsample if hasattr(model.encoder, "downsample") else model.downsample
        downsample.conv.weight.div_(latents.std())
        latents = _capture(codec, waveforms)
        quantizer = model.quantizer
        for part in (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer):
            residual = part.input_proj(latents)
            for layer in part.layers:
                layer.codebook.embed_sum.copy_(_mixed(residual[0].T, 64))
                layer.codebook._embed = None
                residual = residual - layer.decode(layer.encode(residual))
    model.save_pretrained(folder)
    return folder


def write_xcodec2(folder: Path, waveforms: Sequence[torch.Tensor]) -> Path:
    """An X-Codec 2 whose halves have 64 codes, and which has 50 frames a second at 16 kHz."""
    from transformers import Wav2Vec2BertConfig, Xcodec2Config, Xcodec2Model

    torch.manual_seed(2)
    semantic = Wav2Vec2BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        feature_projection_input_dim=160,
        conv_depthwise_kernel_size=3,
    )
    config = Xcodec2Config(
        # Norms have 32 groups, which need two channels each for a single frame.
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        encoder_hidden_size=2,
        semantic_model_config=semantic.to_dict(),
        quantization_dim=80,
        quantization_levels=[4] * 6,
        sampling_rate=16000,
    )
    model = Xcodec2Model(config).eval()
    _vary(model)
    codec = XCodec2(model)
    with torch.no_grad():
        project = model.quantizer.project_in
        before = _capture(codec, waveforms)
        # `before` has gone through a saturating bound: undo it, and centre and widen what is quantized.
        half_range = 1.5 * (1 + 1e-3)
        shift = torch.tensor(0.5 / half_range).atanh()
        raw = ((before + 0.5) / half_range).clamp(-0.9999, 0.9999).atanh() - shift
        mean, std = raw.mean((0, 1)), raw.std((0, 1)).clamp(min=1e-4)
        project.weight.div_(std[:, None])
        project.bias.sub_(mean).div_(std).add_(-0.3)
    model.save_pretrained(folder)
    return folder


def write_vocos(folder: Path, codec: Encodec, seed: int = 3) -> Path:
    """A Vocos for the codes of an EnCodec, with the released file's names."""
    torch.manual_seed(seed)
    net = VocosNet(latent_dim=128, width=16, hidden_width=24, num_layers=2, num_conditions=4)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    layers = codec.model.quantizer.vq.layers if codec.is_package else codec.model.quantizer.layers
    tables = torch.cat([layer.codebook if codec.is_package else layer.codebook.embed for layer in layers[:16]])
    weights = {
        "feature_extractor.codebook_weights": tables,
        "feature_extractor.encodec.encoder.model.0.conv.conv.bias": torch.zeros(32),
        "head.istft.window": torch.hann_window(1280),
    }
    for name, tensor in net.state_dict().items():
        weights[("head." if name.startswith("out.") else "backbone.") + name] = tensor
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def _vary(model: nn.Module) -> None:
    """Larger weights and biases than an initialization gives, so that activations differ and padding would be seen."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_conv = parameter.dim() == 3 and parameter.shape[1] * parameter.shape[2] > 1
            if is_conv and "encoder" in name and "semantic" not in name:
                parameter.normal_(std=(1.5 / (parameter.shape[1] * parameter.shape[2])) ** 0.5)
            elif name.endswith("bias") and parameter.dim() == 1 and "semantic_encoder" not in name:
                parameter.normal_(std=0.1)


def _spread(conv: Any, latents: torch.Tensor) -> None:
    """Give what a convolution puts out unit variance and zero mean in each channel."""
    mean, std = latents.mean((0, 2)), latents.std((0, 2)).clamp(min=1e-5)
    conv.weight.div_(std[:, None, None])
    conv.bias.sub_(mean).div_(std)


def _mixed(vectors: torch.Tensor, num: int) -> torch.Tensor:
    """`num` entries (num, W) between pairs of (T, W) vectors: an unmixed one would leave no residual of itself."""
    pairs = vectors[torch.randint(len(vectors), (2, num))]
    return torch.lerp(pairs[0], pairs[1], torch.rand(num, 1))


def _capture(codec: PretrainedCodec, waveforms: Sequence[torch.Tensor]) -> torch.Tensor:
    """What the quantizer reads for all waveforms in a row, as `quantizer_input` gives it, with a batch of one."""
    joined = torch.cat(list(waveforms))
    found = quantizer_input(codec, joined)
    return found[None] if isinstance(codec, XCodec2) else found.T[None]


def quantizer_input(codec: PretrainedCodec, row: torch.Tensor) -> torch.Tensor:
    """What the quantizer reads (T, D) for (N,) audio; of an X-Codec 2 the bounded digits that it rounds."""
    found: list[torch.Tensor] = []
    quantizer = codec.model.quantizer
    if isinstance(codec, Mimi):
        plain = quantizer.encode

        def noting(latents: torch.Tensor, *rest: Any) -> torch.Tensor:
            found.append(latents[0].T)
            return plain(latents, *rest)

        quantizer.encode = noting
        try:
            codec.encode(row[None], torch.tensor([len(row)]))
        finally:
            del quantizer.encode
        return found[0]
    inner = quantizer.quantizer if isinstance(codec, XCodec2) else quantizer

    def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(inputs[0][0] if isinstance(codec, XCodec2) else inputs[0][0].T)

    hook = inner.register_forward_pre_hook(note)
    codec.encode(*[pad_sequence([row], batch_first=True), torch.tensor([len(row)])])
    hook.remove()
    return found[0]


def tie_gap(
    codec: PretrainedCodec, latent: torch.Tensor, before: Sequence[int], pair: tuple[int, int]
) -> tuple[float, float]:
    """How much nearer one code of a pair is than the other to what codebook `len(before)` codes, and the scale of that.

    `latent` (D,) is a frame of `quantizer_input`, `before` the codes of the earlier codebooks.
    """
    codebook = len(before)
    if isinstance(codec, XCodec2):
        # Rounding depends on where the bounded values lie between two levels.
        values = codec.model.quantizer.quantizer.bound(latent).double()
        digits = codec._digits(torch.tensor(pair), codebook)
        differs = digits[0] != digits[1]
        off = (values - values.floor() - 0.5).abs()[differs]
        return float(off.max()), 1.0
    if isinstance(codec, Dac):
        layers = codec.model.quantizer.quantizers
        residual = latent[None, :, None]
        for layer, code in zip(layers, before, strict=False):
            residual = residual - layer.out_proj(layer.codebook.weight[code][None, :, None])
        projected = nn.functional.normalize(layers[codebook].in_proj(residual)[0, :, 0], dim=0)
        candidates = nn.functional.normalize(layers[codebook].codebook.weight[list(pair)])
    else:
        quantizer = codec.model.quantizer
        part = (
            quantizer.acoustic_residual_vector_quantizer if codebook else quantizer.semantic_residual_vector_quantizer
        )
        projected = part.input_proj(latent[None, :, None])[0, :, 0]
        for layer, code in zip(part.layers, before[1:], strict=False):
            projected = projected - layer.codebook.embed[code]
        candidates = part.layers[max(0, codebook - 1)].codebook.embed[list(pair)]
    one, other = (projected - candidates).double().square().sum(1).tolist()
    return abs(one - other), float(projected.double().square().sum()) + max(one, other)
