"""The device to run on, the precision that it is fast in, and its memory."""

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from utils.errors import MemoryExceededError, UserError, first_line

# The environment variable in which run.sh passes on the value of --gpu.
ASKED_GPUS = "VALLET_GPU"


def pick_device() -> torch.device:
    """The first visible GPU, else the CPU. Raises UserError if --gpu names GPUs that cannot be used."""
    require_asked_gpus()
    # Torch prefers cuDNN's attention on H100 and later, but at some lengths its gradients are NaN (pytorch#196678), it
    # rounds the probability of dropout to sixteenths (#174245), and it plans for each new shape, up to a second long.
    torch.backends.cuda.enable_cudnn_sdp(False)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def require_asked_gpus() -> None:
    """Raises UserError with the reason if --gpu names GPUs that cannot be used.

    CUDA_VISIBLE_DEVICES alone requests no GPU: clusters set it as well.
    """
    asked = os.environ.get(ASKED_GPUS, "")
    num_asked = sum(name.strip() not in ("", "-1") for name in asked.split(","))
    if not num_asked:
        return
    with warnings.catch_warnings():
        # Torch warns about a driver that is too old; the error below has the same reason.
        warnings.simplefilter("ignore")
        num_usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_usable >= num_asked:
        return
    try:
        torch.cuda.init()
        reason = "there are no more"
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    raise UserError(
        f"--gpu {asked}: {num_asked} GPUs were asked for, and {num_usable} can be used ({reason}; "
        f"torch {torch.__version__} is built for {built}); leave --gpu out to use what is available"
    )


def has_fast_bf16(device: torch.device) -> bool:
    """Whether matrix products on the device are faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without AVX-512 or AMX instructions for it, bfloat16 products on a CPU are several times slower.
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pick_inference_precision(asked: str, device: torch.device) -> Literal["fp32", "bf16", "int8"]:
    """The precision that `infer.precision` stands for on a device. Raises UserError if the device does not have it."""
    if asked == "int8" and device.type == "cuda":
        raise UserError("infer.precision: int8 is for CPUs; use bf16 on a GPU")
    if asked == "auto":
        # On a CPU, codes that do not depend on the rest of the batch matter more than speed.
        return "bf16" if device.type == "cuda" and has_fast_bf16(device) else "fp32"
    return "int8" if asked == "int8" else "bf16" if asked == "bf16" else "fp32"


def pick_training_precision(asked: str, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """The precision that `train.precision` stands for on a device. Raises UserError if the device does not have it."""
    if asked == "fp16" and device.type == "cpu":
        raise UserError("train.precision: fp16 is for GPUs; use bf16 or fp32 on a CPU")
    if asked == "auto" and has_fast_bf16(device):
        return "bf16"
    if asked == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    return "fp16" if asked == "fp16" else "bf16" if asked == "bf16" else "fp32"


def release_memory() -> None:
    """Free unreferenced objects, and return their memory to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Raises MemoryExceededError with the advice if the block runs out of memory, on a GPU or on the CPU."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MemoryExceededError(f"out of memory: {advice}") from error
    except RuntimeError as error:
        # The CPU allocator raises a plain RuntimeError.
        if "allocate memory" not in str(error):
            raise
        raise MemoryExceededError(f"out of memory: {advice}") from error
