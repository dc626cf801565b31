"""FSDP: each process keeps a piece of every weight and of what the optimizer knows of it."""

from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin

from models.valle.valle import VALLE, Score
from modules.transformer import TransformerLayer
from utils.errors import UserError
from utils.sharded import is_cut


def set_up(plugin: FullyShardedDataParallelPlugin) -> None:
    """Cut layer by layer; weights and gradients travel in fp32, and autocast chooses what is computed in bf16.

    Raises UserError for what this trainer cannot do.
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
    # Norms and what flows between layers are not for bf16, and a policy knows no exceptions.
    plugin.mixed_precision_policy = None
    # It would make two weights of a tied pair, and each process has read them all by then.
    plugin.cpu_ram_efficient_loading = False


def make_ready(model: VALLE) -> None:
    """Before FSDP cuts a model: give all processes the weights of the first, and each weight that trains a gradient.

    FSDP adds up the same gradients on all processes, each of which draws its own stage: what was not drawn gets one of
    zero. Where no process drew it, the optimizer's momentum moves it, and without FSDP it stays as it is.
    """
    for parameter in model.parameters():
        torch.distributed.broadcast(parameter.data, 0)
    model.register_forward_hook(_with_all)


def _with_all(model: torch.nn.Module, _: Any, scores: dict[str, Score]) -> dict[str, Score]:
    # The layers, which are cut by themselves and in pieces again by now, take part in every stage.
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and not is_cut(parameter)]
    nothing = sum(0.0 * parameter.sum() for parameter in others)
    name, first = next(iter(scores.items()))
    return {**scores, name: replace(first, loss_sum=first.loss_sum + nothing)}
