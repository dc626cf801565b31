"""Which device runs what, and in which precision."""

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from utils.errors import UserError, first_line

# The environment variable in which run.sh hands on the value of --gpu.
ASKED_GPUS = "VALLET_GPU"


def pick_device() -> torch.device:
    """The first visible GPU, else the CPU. Raises UserError where --gpu names GPUs that cannot be used."""
    require_asked_gpus()
    # Torch prefers cuDNN's attention on H100 and later, but at some lengths its gradients are NaN (pytorch#196678), it
    # rounds the probability of dropout to sixteenths (#174245), and it plans for each new shape, up to a second long.
    torch.backends.cuda.enable_cudnn_sdp(False)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def require_asked_gpus() -> None:
    """Raises UserError, saying why, where --gpu names GPUs that cannot be used; run.sh hands its value on.

    CUDA_VISIBLE_DEVICES alone asks for nothing: a cluster sets it as well.
    """
    asked = os.environ.get(ASKED_GPUS, "")
    num_asked = sum(name.strip() not in ("", "-1") for name in asked.split(","))
    if not num_asked:
        return
    with warnings.catch_warnings():
        # Torch warns of a driver that is too old, and the error below says it.
        warnings.simplefilter("ignore")
        num_usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_usable >= num_asked:
        return
    try:
        torch.cuda.init()
        reason = "there are no more of them"
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    raise UserError(
        f"--gpu {asked}: {num_asked} GPUs were asked for, and {num_usable} can be used ({reason}; "
        f"torch {torch.__version__} is built for {built}); leave --gpu out to run on what there is"
    )


def has_fast_bf16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without AVX-512 or AMX instructions for it, bfloat16 products on a CPU are several times slower.
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pick_inference_precision(asked: str, device: torch.device) -> Literal["fp32", "bf16", "int8"]:
    """What `infer.precision` means on a device. Raises UserError for what the device cannot do."""
    if asked == "int8" and device.type == "cuda":
        raise UserError("infer.precision: int8 is for CPUs; use bf16 on a GPU")
    if asked == "auto":
        # On a CPU numbers that do not depend on what is decoded beside come before speed.
        return "bf16" if device.type == "cuda" and has_fast_bf16(device) else "fp32"
    return "int8" if asked == "int8" else "bf16" if asked == "bf16" else "fp32"


def release_memory() -> None:
    """Give memory that nothing refers to any more back to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Tell a user what to lower where the block runs out of memory, on a GPU or not. Raises UserError then."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(f"out of memory: {advice}") from error
    except RuntimeError as error:
        # A CPU's allocator has no error of its own.
        if "allocate memory" not in str(error):
            raise
        raise UserError(f"out of memory: {advice}") from error
