"""One step of plain gradient descent on a share of a batch: a program for a launcher of processes."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from models.valle.batch import Collator, Example
from models.valle.data import TrainData
from models.valle.trainer import Trainer
from models.valle.valle import VALLE
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from tests.conftest import made_up_utterances, tiny_model, tiny_train

TABLE = SymbolTable.from_phones("abcdefgh_")


def stepped_weights(stage: int, rank: int, world_size: int, rate: float = 1.0) -> dict[str, torch.Tensor]:
    """The weights after a step on every `world_size`-th of six utterances of different lengths."""
    torch.manual_seed(0)
    collator = Collator(num_quantizers=4, prefix_mode=0, max_prompt_frames=75, for_nar=True)
    trainer = Trainer(
        settings=tiny_train(gradient_clip_norm=1e6),
        model=VALLE(tiny_model(), train_stage=stage),
        data=TrainData([], [], TextTokenizer(None, TABLE, add_blank=False), collator, tiny_train()),
        folder=Path(),
        accelerator=Accelerator(cpu=True),
        samples=None,
        num_utterances=6,
        meta={},
    )
    trainer.optimizer = torch.optim.SGD(trainer.parameters, lr=rate, fused=True)
    examples = [Example(one, tuple(TABLE.encode(one.phones, False))) for one in made_up_utterances(6)]
    trainer._optimize([collator(examples[rank::world_size], None)], rate, trainer._new_tally())
    return trainer.raw_model.named_weights()


if __name__ == "__main__":
    stage, path = int(sys.argv[1]), Path(sys.argv[2])
    state = Accelerator(cpu=True).state
    weights = stepped_weights(stage, state.process_index, state.num_processes)
    if state.is_main_process:
        torch.save(weights, path)
    torch.distributed.destroy_process_group()
