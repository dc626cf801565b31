"""Counts the collectives that training calls by the group they run in: a program for a launcher of processes."""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState

from models.valle.valle import VALLE
from processors.manifest import list_shards, write_shard
from tests.conftest import made_up_utterances, tiny_model, tiny_train
from tests.support.gradients import COLLATOR
from tests.support.tiny_trainer import build_data, build_trainer
from training.run import ddp_options
from training.trainer import Trainer

NAMES = ("all_reduce", "reduce", "broadcast", "all_gather", "all_gather_into_tensor", "all_gather_object", "barrier")


def train(folder: Path, num_steps: int) -> dict[str, Counter[str]]:
    """How often each collective was called within the steps: on the group of the gradients, and on the other."""
    calls: dict[str, Counter[str]] = {"device": Counter(), "messages": Counter()}
    accelerator = Accelerator(cpu=True, kwargs_handlers=[ddp_options(skips_parameters=False)])
    rank, world_size = accelerator.process_index, accelerator.num_processes
    write_shard(folder / f"shards_{rank}", 0, made_up_utterances(24), frame_rate_hz=25)
    shards = list_shards(folder / f"shards_{rank}")
    settings = tiny_train(max_steps=num_steps, log_interval=1000, valid_interval=1000, save_checkpoint_steps=None)
    data = build_data(shards, settings, COLLATOR, rank=rank, world_size=world_size)
    trainer = build_trainer(VALLE(tiny_model(), train_stage=1), data, folder, accelerator)
    optimize = Trainer.step

    def counted(self, *arguments):
        """A step, with torch's own collectives, each of which is counted."""
        originals = {name: getattr(torch.distributed, name) for name in NAMES}

        def counting(name: str):
            def call(*args, **kwargs):
                kind = "messages" if trainer.cpu_group in (*args, *kwargs.values()) else "device"
                calls[kind][name] += 1
                return originals[name](*args, **kwargs)

            return call

        for name in NAMES:
            setattr(torch.distributed, name, counting(name))
        try:
            return optimize(self, *arguments)
        finally:
            for name, original in originals.items():
                setattr(torch.distributed, name, original)

    Trainer.step = counted  # type: ignore[method-assign]
    trainer.train()
    return calls


def main(folder: Path) -> None:
    PartialState(cpu=True)
    calls = train(folder, num_steps=3)
    if torch.distributed.get_rank() == 0:
        (folder / "calls.json").write_text(json.dumps(calls))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
