"""Linear layers for inference compute nearly the same as torch's, with few rows and with many."""

import pytest
import torch
from torch import nn

from modules.precision import Bf16Linear, Int8Linear, SplitLinear, replace_linears


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("kind", "tolerance"), [(Bf16Linear, 0.01), (Int8Linear, 0.02)])
def test_reduced_precision_is_near_fp32(kind, tolerance: float, has_bias: bool, rows: int) -> None:
    linear = nn.Linear(64, 96, bias=has_bias)
    x = torch.randn(rows, 2, 64)
    with torch.inference_mode():
        expected, found = linear(x), kind(linear)(x)
    assert found.shape == expected.shape and found.dtype == torch.bfloat16
    assert (found - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("rows", [1, 2, 8, 40])
@pytest.mark.parametrize(("has_bias", "num_outputs"), [(True, 96), (False, 96), (True, 97)])
def test_a_split_product_equals_one_product(has_bias: bool, num_outputs: int, rows: int) -> None:
    linear = nn.Linear(64, num_outputs, bias=has_bias)
    x = torch.randn(rows, 1, 64)
    torch.testing.assert_close(SplitLinear(linear)(x), linear(x), rtol=1e-5, atol=1e-6)
    assert SplitLinear(linear).weight is linear.weight


def test_int8_keeps_the_scale_of_each_output() -> None:
    linear = nn.Linear(32, 3, bias=False)
    with torch.no_grad():
        linear.weight[1] *= 1e-4
        linear.weight[2] = 0.0
    found = Int8Linear(linear)(torch.eye(32)).float()
    torch.testing.assert_close(
        found, linear.weight.detach().T, rtol=0.02, atol=1e-7 + 0.01 * float(linear.weight.detach()[0].abs().max())
    )
    assert (found[:, 1] - linear.weight[1]).abs().max() < 0.02 * linear.weight[1].abs().max()
    assert found[:, 2].abs().max() == 0


def test_all_linear_layers_are_replaced_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)))
    replace_linears(model, Int8Linear)
    kinds = [type(module).__name__ for module in model.modules() if not isinstance(module, nn.Sequential)]
    assert kinds == ["Int8Linear", "LayerNorm", "Int8Linear"]
