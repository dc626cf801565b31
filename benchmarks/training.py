"""AR training on lengths as LibriTTS has them: padding, the loader, and steps against the plain way."""

import math
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Row, peak_memory, products_per_second, seconds_once
from config.schema import ValleExperiment
from models.contract import Batch, Example
from models.valle.collate import Collator, PrefixMode, ValleBatch
from models.valle.valle import VALLE
from modules.attention import SelfAttention
from processors.frontends.graphemes import GraphemePhonemizer
from processors.manifest import Utterance, list_shards, write_shard
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from training.corpus import IndexedCorpus
from training.data import TrainData
from training.sequence import Position
from utils.device import has_fast_bf16

FRAME_RATE_HZ, PHONES_PER_SECOND = 75, 13.5
MEDIAN_SECONDS, SPREAD, SHORTEST_SECONDS, LONGEST_SECONDS = 4.7, 0.62, 0.5, 14
NUM_WARM = 4
PHONES = tuple("abcdefghijklmnopqrstuvwxyz_")


def rows(settings: ValleExperiment, device: torch.device, full: bool) -> list[Row]:
    """Everything about training."""
    with tempfile.TemporaryDirectory() as folder:
        write_shard(Path(folder), 0, list(made_up_utterances(4000)), FRAME_RATE_HZ)
        data = train_data(settings, list_shards(Path(folder)), num_workers=0)
        padding = _padding_row(data)
        loading = _loading_row(train_data(settings, list_shards(Path(folder)), num_workers=1))
        if device.type == "cuda":
            return [padding, loading, _gpu_row(settings, data, device)]
        training = _training_row(settings, data, device, full)
    assert training.rate is not None and loading.rate is not None
    loading.goal, loading.goal_met = "faster than training", loading.rate > training.rate
    goal = "at least 35 % of its matrix rate, in 24 GB"
    return [padding, loading, training, Row("AR training, bf16, full size, GPU", goal=goal, note="not measured")]


def made_up_utterances(num: int) -> Iterator[Utterance]:
    """Log-normal lengths of 0.5 to 14 s; phones in proportion, give or take an eighth."""
    rng = np.random.default_rng(0)
    while num:
        seconds = rng.lognormal(math.log(MEDIAN_SECONDS), SPREAD)
        if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
            continue
        num -= 1
        num_phones = max(3, int(seconds * PHONES_PER_SECOND * rng.normal(1, 0.125)))
        phones = tuple(rng.choice(PHONES, num_phones).tolist())
        codes = rng.integers(0, 1024, (int(seconds * FRAME_RATE_HZ), 8)).astype(np.int16)
        yield Utterance(f"u{num:06d}", "made up", phones, f"s{num % 50}", codes)


def train_data(settings: ValleExperiment, shards: Sequence[str], num_workers: int) -> TrainData:
    tokenizer = TextTokenizer(GraphemePhonemizer, SymbolTable(PHONES), add_blank=False)
    model = settings.model
    collator = Collator(8, PrefixMode(model.prefix_mode), 3 * FRAME_RATE_HZ, for_nar=False, group_size=model.group_size)
    loader = settings.train.dataloader.model_copy(update={"num_worker": num_workers})
    train = settings.train.model_copy(update={"dataloader": loader})
    return TrainData(IndexedCorpus.load(shards), IndexedCorpus.load([]), tokenizer, collator, train)


def epoch_of(data: TrainData) -> Iterator[Batch]:
    """The batches of the first epoch, on one rank."""
    data = replace(data, settings=data.settings.model_copy(update={"gradient_accumulation_step": 1}))
    return (batch for [batch] in data.steps(Position(), data.sequence.num_batches(0)))


def _padding_row(data: TrainData) -> Row:
    num_real = num_all = 0
    for batch in epoch_of(data):
        assert isinstance(batch, ValleBatch)
        num_real += int(data.collator.num_positions(batch.text_lens.numpy(), batch.codes_lens.numpy()).sum())
        num_all += batch.longest * batch.num_utterances
    share = 100 * (1 - num_real / num_all)
    return Row("training, positions that are padding", rate=share, unit="%", goal="at most 5 %", goal_met=share <= 5)


def _loading_row(data: TrainData) -> Row:
    started = time.perf_counter()
    num_tokens = sum(batch.num_tokens for batch in epoch_of(data))
    seconds = time.perf_counter() - started
    return Row("training data, 1 loader process", seconds, num_tokens / seconds, "token/s")


def _training_row(settings: ValleExperiment, data: TrainData, device: torch.device, full: bool) -> Row:
    """Forward, backward and optimizer on as many tokens of the same utterances, in both ways."""
    model = _model(settings, device, num_layers=settings.model.num_decoder_layers if full else 3)
    fast = _sample(list(epoch_of(data)), num=4)
    plain = _random_batches(data, num=4)
    precision = torch.bfloat16 if has_fast_bf16(device) else torch.float32
    with peak_memory() as peak:
        rate = _rate(model, fast, precision, device)
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.forward = partial(_dense_attention, module)  # type: ignore[method-assign]
    plain_rate = _rate(model, plain, torch.float32, device)
    products = rate * 6 * _num_weights(model) / products_per_second(device, precision)
    goal = f"at least 3 x fp32, dense mask, random batches ({plain_rate:.0f} token/s)"
    job = f"AR training, width {model.ar.decoder.width}, {len(model.ar.decoder.layers)} layers"
    ratio = rate / plain_rate
    return Row(job, 1 / rate, rate, "token/s", peak.mib, ratio, 1 / products, goal, ratio >= 3)


def _gpu_row(settings: ValleExperiment, data: TrainData, device: torch.device) -> Row:
    model = _model(settings, device, settings.model.num_decoder_layers)
    warm, measured = _batches_of_many_shapes(list(epoch_of(data)))
    with peak_memory() as peak:
        _rate(model, warm, torch.bfloat16, device)
        rate = _rate(model, measured, torch.bfloat16, device)
    share = rate * 6 * _num_weights(model) / products_per_second(device, torch.bfloat16)
    fits = peak.mib is not None and peak.mib < 24 * 1024
    goal = "at least 35 % of its matrix rate, in 24 GB"
    is_met = share >= 0.35 and fits
    return Row("AR training, bf16, full size, GPU", 1 / rate, rate, "token/s", peak.mib, None, 1 / share, goal, is_met)


def _model(settings: ValleExperiment, device: torch.device, num_layers: int) -> VALLE:
    torch.manual_seed(0)
    # On a CPU torch drops out attention by another, slow way, which would hide all else.
    dropout = settings.model.dropout if device.type == "cuda" else 0.0
    architecture = settings.model.model_copy(update={"num_decoder_layers": num_layers, "dropout": dropout})
    model = VALLE(architecture, train_stage=1).to(device)
    model.configure_training(settings.train)
    return model


def _num_weights(model: VALLE) -> int:
    """The weights that each token is multiplied with; embeddings are looked up."""
    return sum(value.numel() for name, value in model.ar.named_parameters() if "embedding" not in name)


def _rate(model: VALLE, batches: Sequence[Batch], precision: torch.dtype, device: torch.device) -> float:
    """Tokens a second, padding not counted."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            score = model(batch.to(device))["ar"]
        (score.loss_sum / score.num_targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(batches[0])

    def steps() -> None:
        for batch in batches[1:]:
            step(batch)

    seconds = seconds_once(steps)
    return sum(batch.num_tokens for batch in batches[1:]) / seconds


def _longest(batch: Batch) -> int:
    """Positions of a row."""
    assert isinstance(batch, ValleBatch)
    return batch.longest


def _sample(batches: list[Batch], num: int) -> list[Batch]:
    """Batches of all lengths, spread evenly."""
    ordered = sorted(batches, key=_longest)
    return [ordered[int((place + 0.5) * len(ordered) / num)] for place in range(num)]


def _batches_of_many_shapes(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """A few batches to warm up on and the others, in the order of an epoch, with each shape once in all of them."""
    by_shape = {(batch.num_utterances, _longest(batch)): batch for batch in batches}
    distinct = list(by_shape.values())
    return distinct[:NUM_WARM], distinct[NUM_WARM:]


def _random_batches(data: TrainData, num: int) -> list[Batch]:
    """As many utterances as a bucketed batch has on average, in the order that they come in."""
    utterances = list(made_up_utterances(4000))
    random.Random(0).shuffle(utterances)
    size = round(statistics.mean(batch.num_utterances for batch in epoch_of(data)))
    examples = [Example(tuple(data.tokenizer.ids(row.phones)), row.codes) for row in utterances[: num * size]]
    return [data.collator(examples[first : first + size], None) for first in range(0, len(examples), size)]


def _dense_attention(
    attention: SelfAttention, x: Tensor, may_attend: Tensor, layer: int = 0, cache: None = None
) -> Tensor:
    """The plain way: scores of every pair, and a float mask for every head."""
    query, key, value = attention._project(x)
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    mask = torch.zeros_like(scores).masked_fill_(~may_attend, -math.inf)
    mixed = (scores + mask).softmax(-1) @ value
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))
