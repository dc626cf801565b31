"""Everything specific to FSDP: each rank keeps a shard of every weight and of its optimizer state.

Torch's module for sharded tensors takes a third of a second to import, so it is imported where one is met.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, FullyShardedDataParallelPlugin
from torch import Tensor, nn

from models.contract import CodecLM, LossSums
from modules.transformer import TransformerLayer
from training.averaging import AveragedWeights
from utils.errors import UserError


def configure_fsdp(plugin: FullyShardedDataParallelPlugin) -> None:
    """Shard layer by layer; weights and gradients are communicated in fp32, and autocast chooses what runs in bf16.

    Raises UserError for options that this trainer does not support.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    if plugin.fsdp_version != 2:
        raise UserError("accelerate: fsdp_version 1 is not supported; set fsdp_version to 2")
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise UserError("accelerate: fsdp_offload_params is not supported; set it to false")
    if plugin.activation_checkpointing:
        raise UserError(
            "accelerate: fsdp_activation_checkpointing is not supported; set it to false, and "
            "train.activation_checkpointing to true"
        )
    plugin.auto_wrap_policy = transformer_auto_wrap_policy
    plugin.transformer_cls_names_to_wrap = [TransformerLayer.__name__]
    # A mixed-precision policy knows no exceptions, and norms and activations between layers must stay in fp32.
    plugin.mixed_precision_policy = None
    # It would untie tied weights, and by then every rank has read all weights anyway.
    plugin.cpu_ram_efficient_loading = False


def prepare_for_sharding(model: nn.Module) -> None:
    """Before sharding: broadcast rank 0's weights, and give every trainable weight a (possibly zero) gradient.

    FSDP reduces the same gradients on all ranks, but each rank draws its own NAR stage. A weight whose stage no rank
    drew gets a zero gradient, so the optimizer's momentum still moves it; without FSDP it would not move.
    """
    for parameter in model.parameters():
        torch.distributed.broadcast(parameter.data, 0)
    model.register_forward_hook(_add_zero_gradients)


def _add_zero_gradients(model: nn.Module, _: Any, losses: dict[str, LossSums]) -> dict[str, LossSums]:
    # Transformer layers are already resharded here, and every stage uses them; only the other parameters need this.
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and not is_sharded(parameter)]
    zero = sum(0.0 * parameter.sum() for parameter in others)
    name, first = next(iter(losses.items()))
    return {**losses, name: replace(first, loss_sum=first.loss_sum + zero)}


def prepare(model: CodecLM, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> tuple[nn.Module, Any]:
    """The model as this rank calls it in training, wrapped or sharded, and its optimizer. A collective."""
    if accelerator.is_fsdp2:
        prepare_for_sharding(model)
    wrapped, prepared = accelerator.prepare(model, optimizer)
    return wrapped, prepared.optimizer


def autocast_options(accelerator: Accelerator) -> AutocastKwargs:
    # Under FSDP2 accelerate does not wrap the model in autocast, and autocast's cache would copy every weight.
    return AutocastKwargs(cache_enabled=not accelerator.is_fsdp2)


class EvalModel:
    """The unsharded model, for validation and samples: the training model itself, or under FSDP a copy.

    The copy is made before the model is sharded, stays in CPU memory, and is on the device only inside `synced`.
    """

    def __init__(self, model: CodecLM, accelerator: Accelerator) -> None:
        self.model = deepcopy(model) if accelerator.is_fsdp2 else model
        self._device = accelerator.device

    @contextmanager
    def synced(self, trained: CodecLM, averages: AveragedWeights | None = None) -> Iterator[CodecLM]:
        """The model with the weights of the trained one, or their averages. A collective: every rank must enter it."""
        if self.model is trained:
            with nullcontext() if averages is None else averages.in_place():
                yield self.model
            return
        weights = trained.named_weights() if averages is None else averages.named(trained)
        self.model.to(self._device).load_named_weights(gather(weights))
        yield self.model
        self.model.cpu()


def all_reduce_max(values: Sequence[int], group: Any) -> list[int]:
    """Element-wise maximum over the ranks of a group; None: this rank only. A collective."""
    most = torch.tensor(values, dtype=torch.long)
    if group is not None:
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX, group)
    return most.tolist()


def gather(value: Any) -> Any:
    """Gather sharded tensors to the CPU, recursively in dicts and lists; leave anything else unchanged. A collective.

    A tensor that a dict holds under two names is gathered once.
    """
    if isinstance(value, dict):
        done = {id(item): gather(item) for item in value.values()}
        return {key: done[id(item)] for key, item in value.items()}
    if isinstance(value, list):
        return [gather(item) for item in value]
    return full_tensor(value).cpu() if is_sharded(value) else value


def full_tensor(value: Tensor) -> Tensor:
    """A tensor unsharded, on its device. A collective."""
    return value.full_tensor() if is_sharded(value) else value  # type: ignore[attr-defined]


def local_shard(value: Tensor) -> Tensor:
    """This rank's shard of a tensor."""
    return value.to_local() if is_sharded(value) else value  # type: ignore[attr-defined]


def shard_like(value: Tensor, other: Tensor) -> Tensor:
    """A tensor that every rank has in full, sharded as `other` is."""
    if not is_sharded(other):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def shard_weights(weights: Mapping[str, Tensor], model: CodecLM) -> dict[str, Tensor]:
    """Full weights by name, each sharded as the model's own."""
    own = model.named_weights()
    return {name: shard_like(value, own[name]) if name in own else value for name, value in weights.items()}


def is_sharded(value: Any) -> bool:
    return hasattr(value, "full_tensor")
