"""Steps of gradient descent on shares of a batch: a program for a launcher of processes."""

import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState

from models.contract import Example
from models.valle.collate import Batch, Collator, PrefixMode
from models.valle.valle import VALLE
from tests.conftest import made_up_utterances, tiny_model, tiny_train
from tests.support.sharded import allow_fsdp
from tests.support.tiny_trainer import TABLE, build_data, build_trainer
from training.parallel import configure_fsdp, gather
from training.run import ddp_options

COLLATOR = Collator(num_quantizers=4, prefix_mode=PrefixMode.NONE, max_prompt_frames=75, for_nar=True)


def share(rank: int, world_size: int, drawn: bool) -> Batch:
    """Every `world_size`-th of six utterances of different lengths; with all of the NAR's stages or one `drawn`."""
    examples = [Example(tuple(TABLE.encode(one.phones, False)), one.codes) for one in made_up_utterances(6)]
    return COLLATOR(examples[rank::world_size], random.Random(rank) if drawn else None)


def stepped_weights(
    stage: int, batches: Sequence[Batch], rate: float = 1.0, precision: str = "no"
) -> dict[str, torch.Tensor]:
    """The weights after one step on these batches, and on those of the other processes."""
    data = build_data([], tiny_train(gradient_clip_norm=1e6), COLLATOR)
    accelerator = Accelerator(
        cpu=True, mixed_precision=precision, kwargs_handlers=[ddp_options(VALLE.skips_parameters(stage))]
    )
    if accelerator.is_fsdp2:
        configure_fsdp(accelerator.state.fsdp_plugin)
    # Whatever others begin with, the weights of the first count.
    torch.manual_seed(accelerator.process_index)
    trainer = build_trainer(VALLE(tiny_model(), train_stage=stage), data, Path(), accelerator)
    # With so large an epsilon and no memory, a step of nearly the gradient, and not of its sign alone.
    trainer.optimizer = torch.optim.Adam(trainer.parameters, lr=rate, betas=(0.0, 0.0), eps=1.0, fused=True)
    trainer.step(batches, rate, trainer.new_metrics())
    return gather(trainer.unwrapped_model.named_weights())


def main(stage: int, precision: str, path: Path) -> None:
    if "FSDP_VERSION" in os.environ:
        allow_fsdp()
    state = PartialState(cpu=True)
    rank, world_size = state.process_index, state.num_processes
    weights = [stepped_weights(stage, [share(rank, world_size, drawn)], precision=precision) for drawn in (False, True)]
    if rank == 0:
        torch.save(weights, path)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
