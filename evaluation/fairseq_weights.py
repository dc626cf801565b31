"""Self-supervised encoders with weights in fairseq's format, as transformers' models: wav2vec 2.0 and WavLM."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UserError

# The strides of the convolutions of wav2vec 2.0, HuBERT and WavLM. Weights do not show them.
_STRIDES = (5, 2, 2, 2, 2, 2, 2)
_HEAD_WIDTH = 64
_MAX_DISTANCE = 800
# fairseq's names, and transformers'.
_RENAMES = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^encoder\.pos_conv\.0\.weight_g$", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"^encoder\.pos_conv\.0\.weight_v$", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.relative_attention_bias\.", ".attention.rel_attn_embed."),
    (r"\.self_attn\.grep_linear\.", ".attention.gru_rel_pos_linear."),
    (r"\.self_attn\.grep_a$", ".attention.gru_rel_pos_const"),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
    (r"^mask_emb$", "masked_spec_embed"),
)


def load_tensors(path: Path, how: str) -> Mapping[str, Any]:
    """The content of a checkpoint, which is a dictionary. It is data: nothing in it is run.

    Raises UserError with `how` to get a right one, if it is no checkpoint of tensors alone.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises many types, and its message advises to load the file in a way that could run code.
        raise UserError(f"{path}: damaged, or no checkpoint of tensors alone; {how}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no dictionary; {how}")
    return content


def part_of(weights: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name[len(prefix) :]: weight for name, weight in weights.items() if str(name).startswith(prefix)}


def fill(module: nn.Module, weights: Mapping[str, Tensor], path: Path, how: str) -> nn.Module:
    """Load all weights of a module, for inference. Raises UserError if any is missing, unknown or of another shape."""
    try:
        module.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        names = [line.strip() for line in str(error).splitlines()[1:2]] or [str(error)]
        raise UserError(
            f"{path}: its weights are not those of {type(module).__name__} ({names[0]:.200}); {how}"
        ) from error
    return module.eval().requires_grad_(False)


def build_encoder(weights: Mapping[str, Tensor], path: Path, how: str) -> Any:
    """transformers' WavLM, or wav2vec 2.0 if the weights have no relative positions. Sizes are those of the weights.

    Its inputs are waveforms (B, N) at 16 kHz as the checkpoint was trained on: of zero mean and unit variance if its
    convolutions have layer norms, raw otherwise. Raises UserError if the weights are no such encoder.
    """
    from transformers import Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

    try:
        sizes = _sizes(weights)
        if "encoder.layers.0.self_attn.grep_a" in weights:
            buckets, num_heads = weights["encoder.layers.0.self_attn.relative_attention_bias.weight"].shape
            config = WavLMConfig(
                **sizes, num_attention_heads=num_heads, num_buckets=buckets, max_bucket_distance=_MAX_DISTANCE
            )
            model = WavLMModel(config)
        else:
            model = Wav2Vec2Model(Wav2Vec2Config(**sizes, num_attention_heads=sizes["hidden_size"] // _HEAD_WIDTH))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: no encoder of wav2vec 2.0 or WavLM in fairseq's format ({error}); {how}") from error
    renamed = {_renamed(name): weight for name, weight in weights.items()}
    # Only training masks its input: a checkpoint may lack the mask.
    renamed["masked_spec_embed"] = model.state_dict()["masked_spec_embed"]
    return fill(model, renamed, path, how)


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    convolutions = [weights[f"feature_extractor.conv_layers.{i}.0.weight"] for i in range(len(_STRIDES))]
    position = weights["encoder.pos_conv.0.weight_v"]
    width = len(position)
    has_layer_norms = "feature_extractor.conv_layers.0.2.1.weight" in weights
    return {
        "hidden_size": width,
        "intermediate_size": len(weights["encoder.layers.0.fc1.weight"]),
        "num_hidden_layers": sum(name.endswith(".fc1.weight") for name in weights),
        "conv_dim": [len(weight) for weight in convolutions],
        "conv_kernel": [weight.shape[2] for weight in convolutions],
        "conv_stride": list(_STRIDES),
        "conv_bias": "feature_extractor.conv_layers.0.0.bias" in weights,
        "num_conv_pos_embeddings": position.shape[2],
        "num_conv_pos_embedding_groups": width // position.shape[1],
        # The two designs: base models have a group norm and post-norm layers, large ones layer norms and pre-norm.
        "feat_extract_norm": "layer" if has_layer_norms else "group",
        "do_stable_layer_norm": has_layer_norms,
    }


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
