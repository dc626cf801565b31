"""What a user is told where memory or a precision is not to be had."""

import pytest
import torch

from utils.device import memory_advice, pick_inference_precision
from utils.errors import UserError


def test_no_memory_is_one_line_that_says_what_to_lower() -> None:
    with (
        pytest.raises(UserError, match=r"^out of memory: lower train\.max_tokens$"),
        memory_advice("lower train.max_tokens"),
    ):
        torch.empty(10**15)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_advice("lower it"):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_precisions_of_a_device() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [pick_inference_precision(asked, cpu) for asked in ("auto", "fp32", "bf16", "int8")] == [
        *("fp32", "fp32", "bf16", "int8")
    ]
    assert pick_inference_precision("fp32", gpu) == "fp32"
    with pytest.raises(UserError, match=r"infer\.precision: int8 is for CPUs"):
        pick_inference_precision("int8", gpu)
