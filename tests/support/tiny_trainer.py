"""Data and trainers of tiny models, without a corpus and its stages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from config.schema import TrainSettings
from models.contract import Batch, Collate
from models.valle.collate import Collator, PrefixMode
from models.valle.valle import VALLE
from processors.frontends.graphemes import GraphemePhonemizer
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from training.corpus import IndexedCorpus
from training.data import TrainData
from training.parallel import EvalModel
from training.sequence import Position
from training.trainer import Trainer

# The phones of `made_up_utterances`, and the boundary of joined ones.
TABLE = SymbolTable.from_phones("abcdefgh_")
TOKENIZER = TextTokenizer(GraphemePhonemizer, TABLE, add_blank=False)
COLLATOR = Collator(num_quantizers=4, prefix_mode=PrefixMode.FIRST_FRAMES, max_prompt_frames=75, for_nar=True)


def build_data(
    shards: Sequence[str], settings: TrainSettings, collator: Collate = COLLATOR, **changes: Any
) -> TrainData:
    """All shards train, and all validate unless `valid` says otherwise."""
    corpus = IndexedCorpus.load(shards)
    return TrainData(
        **{"train": corpus, "valid": corpus, "tokenizer": TOKENIZER, **changes}, collator=collator, settings=settings
    )


def epoch_of(data: TrainData, epoch: int = 0, start: int = 0) -> list[Batch]:
    """The batches of an epoch on a single rank, from one on."""
    assert data.batches_per_step == 1
    num = data.sequence.num_batches(epoch) - start
    return [batch for [batch] in data.steps(Position(epoch, start), num)]


def build_trainer(model: VALLE, data: TrainData, folder: Path, accelerator: Accelerator | None = None) -> Trainer:
    """On the CPU; the settings are those of the data."""
    accelerator = accelerator or Accelerator(cpu=True)
    return Trainer(
        settings=data.settings,
        model=model,
        eval_model=EvalModel(model, accelerator),
        data=data,
        folder=folder,
        accelerator=accelerator,
        samples=None,
        meta={"train_stage": 1 if model.ar_trains else 2, "codec": "made up"},
    )
