"""How often bf16 and int8 weights predict the same code as fp32, with a trained model."""

from pathlib import Path
from typing import Literal

import torch

from benchmarks.measure import Row
from models.contract import CodecLM
from models.experiment import Experiment, load_model
from models.valle.valle import VALLE
from processors.frontends.graphemes import GraphemePhonemizer
from processors.manifest import read_shards
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from training.prepared import read_preprocessed
from utils.checkpoint import find_checkpoints

NUM_UTTERANCES = 40


def rows(folder: Path) -> list[Row]:
    """Compare greedy codes on validation utterances, predicted from the true codes before each frame."""
    found = find_checkpoints(folder / "checkpoint")
    jobs = {precision: f"codes equal to fp32's, {precision}, {folder.name}" for precision in ("bf16", "int8")}
    if not found:
        return [Row(job, note="not measured: run make demo first") for job in jobs.values()]
    experiment = Experiment(folder)
    settings = experiment.settings()
    data = read_preprocessed(settings)
    tokenizer = TextTokenizer(GraphemePhonemizer, SymbolTable.load(experiment.symbols), settings.preprocess.add_blank)
    utterances = list(read_shards(data.valid_shards))[:NUM_UTTERANCES]
    inputs = [
        (torch.tensor([tokenizer.ids(row.phones)]), torch.from_numpy(row.codes).long().unsqueeze(0))
        for row in utterances
    ]
    expected = choices(load_model(found[-1], settings), inputs)
    table = []
    precisions: tuple[Literal["bf16", "int8"], ...] = ("bf16", "int8")
    for precision in precisions:
        model = load_model(found[-1], settings)
        model.prepare_inference(precision, torch.device("cpu"))
        share = 100 * float((choices(model, inputs) == expected).float().mean())
        table.append(Row(jobs[precision], rate=share, unit="%"))
    return table


@torch.inference_mode()
def choices(model: CodecLM, inputs: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """The most likely code of each frame of codebook 0."""
    assert isinstance(model, VALLE)
    chosen = []
    for text, codes in inputs:
        lens = torch.tensor([text.shape[1]]), torch.tensor([codes.shape[1]])
        chosen.append(model.eval().ar(text, lens[0], codes[..., 0], lens[1])[0].argmax(-1))
    return torch.cat(chosen)
