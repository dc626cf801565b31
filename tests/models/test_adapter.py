"""LoRA adapters of a model: no effect at the start, nothing else trains, and merging changes no output."""

import pytest
import torch
from torch import nn

from config.schema import LoraSettings
from models.adapter import add_adapter, merged
from models.contract import TokenizedRequest
from models.valle.valle import VALLE
from modules.sampling import TokenSampler
from tests.conftest import tiny_model
from tests.models.test_guidance import batch_of

LORA = LoraSettings(rank=3, alpha=6.0, targets=["in_proj", "out_proj", "linear1", "linear2"])


@pytest.fixture(params=[{}, {"group_size": 2, "prepend_bos": True}, {"add_prenet": True, "share_embedding": False}])
def settings(request):
    return tiny_model(**request.param)


def adapted(settings, weights: dict[str, torch.Tensor], stage: int = 0, lora: LoraSettings = LORA) -> VALLE:
    model = VALLE(settings, train_stage=stage)
    model.load_named_weights(weights)
    add_adapter(model, lora)
    return model.eval()


def fill(model: VALLE) -> dict[str, torch.Tensor]:
    """Updates that are not zero."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return {name: value.clone() for name, value in model.named_weights().items()}


def losses(model: VALLE) -> dict[str, float]:
    return {name: sums.loss_sum.item() for name, sums in model(batch_of(4)).items()}


def test_an_adapter_has_no_effect_at_its_start(settings) -> None:
    base = VALLE(settings, train_stage=0).eval()
    model = adapted(settings, base.named_weights())
    assert losses(model) == losses(base)
    fill(model)
    assert all(value != losses(base)[name] for name, value in losses(model).items())


@pytest.mark.parametrize(("stage", "parts"), [(0, {"ar", "nar"}), (1, {"ar"}), (2, {"nar"})])
def test_the_adapter_alone_trains_and_is_saved_in_the_parts_of_the_stage(stage: int, parts: set[str]) -> None:
    model = adapted(tiny_model(), VALLE(tiny_model(), train_stage=stage).named_weights(), stage)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trainable) and {name.split(".")[0] for name in trainable} == parts
    saved = model.named_weights()
    # Two matrices for four linear layers of two layers.
    assert len(saved) == len(trainable) == 16 * len(parts)
    assert {model.part_of(name) for name in saved} == parts
    # The inputs and outputs of these four in a layer.
    num_ends = (32 + 96) + (32 + 32) + (32 + 128) + (128 + 32)
    assert sum(value.numel() for value in saved.values()) == 2 * 3 * num_ends * len(parts)


def test_a_saved_adapter_gives_the_same_outputs_on_the_same_base(settings) -> None:
    weights = VALLE(settings, train_stage=0).named_weights()
    first = adapted(settings, weights)
    saved = fill(first)
    second = adapted(settings, weights)
    assert second.load_named_weights(saved) == [] and losses(second) == losses(first)
    with pytest.raises(ValueError, match="unknown weight"):
        second.load_named_weights(weights)


@torch.inference_mode()
def test_merged_equals_unmerged(settings) -> None:
    base = VALLE(settings, train_stage=0).eval()
    weights = {name: value.clone() for name, value in base.named_weights().items()}
    model = adapted(settings, weights)
    together = merged(weights, fill(model), LORA)
    assert all(base.named_weights()[name].equal(value) for name, value in weights.items())
    base.load_named_weights(together)
    for name, value in losses(base).items():
        assert losses(model)[name] == pytest.approx(value, rel=1e-5)

    # By peft's own merging, too.
    for module in model.modules():
        if hasattr(module, "merge") and hasattr(module, "lora_A"):
            module.merge()
    of_peft = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    for name, value in base.state_dict().items():
        torch.testing.assert_close(of_peft[name], value, rtol=1e-6, atol=1e-7)


def test_an_adapted_model_generates_with_its_cache_as_the_merged_one(settings) -> None:
    weights = VALLE(settings, train_stage=0).named_weights()
    model, plain = adapted(settings, weights), VALLE(settings).eval()
    plain.load_named_weights(merged(weights, fill(model), LORA))
    request = TokenizedRequest([1, 5, 6, 7, 2], 1, torch.randint(0, 20, (6, 4)), 3)
    limits = torch.tensor([1]), torch.tensor([12])
    found, expected = (one.generate([request], TokenSampler(top_k=1), [0], *limits)[0] for one in (model, plain))
    assert torch.equal(found.codes, expected.codes)


def test_targets_that_no_layer_has_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"is called qkv; there are in_proj, linear1, linear2, out_proj"):
        add_adapter(VALLE(tiny_model(), 1), LORA.model_copy(update={"targets": ["in_proj", "qkv"]}))
    model = VALLE(tiny_model(), 1)
    other = {f"ar_x.lora_{name}.weight": torch.ones(1, 1) for name in "AB"}
    with pytest.raises(ValueError, match="does not fit the adapter"):
        merged(model.named_weights(), other, LORA)
