"""Tensors of which every process holds a piece, as FSDP cuts them, and others, alike.

Torch's module for them is imported where one is met: it takes a third of a second, and speaking never meets one.
"""

from typing import Any

from torch import Tensor


def whole(value: Any) -> Any:
    """Tensors that are cut, put together on the CPU, in dicts and lists of them, too; anything else as it is.

    Every process must call it, with the same tensors. What a dict has under two names is one tensor for both again.
    """
    if isinstance(value, dict):
        done = {id(item): whole(item) for item in value.values()}
        return {key: done[id(item)] for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return whole_here(value).cpu() if is_cut(value) else value


def whole_here(value: Tensor) -> Tensor:
    """A tensor in one piece, on the device where it is. Every process must call it."""
    return value.full_tensor() if is_cut(value) else value  # type: ignore[attr-defined]


def shard_here(value: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return value.to_local() if is_cut(value) else value  # type: ignore[attr-defined]


def cut_as(value: Tensor, other: Tensor) -> Tensor:
    """This process's piece of a tensor that all processes have, where `other` is cut; else the tensor itself."""
    if not is_cut(other):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def is_cut(value: Any) -> bool:
    return hasattr(value, "full_tensor")
