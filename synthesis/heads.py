"""Chooses the attention heads that follow the text, once per experiment, on true codes of validation data."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config.schema import Settings
from models.contract import CodecLM, TokenizedRequest
from models.experiment import Experiment
from processors.codecs.base import Codec
from processors.manifest import list_shards, read_shards
from processors.text import TextTokenizer
from synthesis.alignment import attention_of_frames, diagonality
from utils.checkpoint import Checkpoint
from utils.config import resolve_path
from utils.errors import UserError
from utils.files import atomic_write
from utils.log import log
from utils.paths import ROOT
from utils.remote import is_url

Head = tuple[int, int]
"""A layer and a head of it."""
# Heads below this do not follow the text. With one of 0.4 half of a model's word times were wrong by 50 ms or more.
NEEDED_DIAGONALITY = 0.4
# The heads that are averaged, at most, and how good each must be beside the best one. A mean of several makes fewer
# false alarms than the best alone.
_MOST_HEADS, _LEAST_SHARE = 4, 0.75
_NUM_UTTERANCES = 20
# Memory for the attention of all heads of a batch.
_MAX_TEXT_IDS = 400


@dataclass(frozen=True)
class HeadChoice:
    """The chosen heads, the best first, and the diagonality of the best head; no heads if that is below `needed`."""

    heads: tuple[Head, ...]
    best: float
    needed: float = NEEDED_DIAGONALITY


def measure_heads(model: CodecLM, utterances: Sequence[tuple[Sequence[int], Tensor]]) -> np.ndarray:
    """The mean diagonality of all heads, (K,), over utterances: ids and true codes (T, Q)."""
    step, measured = model.frames_per_step, []
    for ids, codes in utterances:
        # The first step is a prompt, as every request needs one.
        if len(ids) > _MAX_TEXT_IDS or len(ids) < 4 or len(codes) < 2 * step:
            continue
        request = TokenizedRequest(ids, 1, codes[:step], len(ids))
        [reading] = model.read_codes([request], [codes[step:]], model.attention_heads)
        # The ends of the text attract attention at any time.
        of_phones = reading.attention[:, :, 1:-1].numpy()
        frames = np.stack([attention_of_frames(of_one[None], step, len(codes)) for of_one in of_phones])
        measured.append(diagonality(frames))
    return np.mean(measured, axis=0) if measured else np.zeros(len(model.attention_heads))


def choose_heads(model: CodecLM, measured: np.ndarray) -> HeadChoice:
    """The heads of the highest diagonality (K,)."""
    order = np.argsort(-measured, kind="stable")
    best = float(measured[order[0]]) if len(order) else 0.0
    needed = max(NEEDED_DIAGONALITY, _LEAST_SHARE * best)
    chosen = [model.attention_heads[index] for index in order[:_MOST_HEADS] if measured[index] >= needed]
    return HeadChoice(tuple(chosen), best)


def find_heads(
    model: CodecLM,
    codec: Codec,
    tokenizer: TextTokenizer,
    source: Checkpoint,
    settings: Settings,
) -> HeadChoice | None:
    """The heads in the experiment's file, or those chosen on its validation data, which are saved there.

    The file counts for the checkpoint that it names. None if there is neither a file nor data of the model's codec.
    """
    path = Experiment.of(source).attention_heads
    saved = read_heads(path, source, model)
    if saved is not None:
        return saved
    utterances = _validation_utterances(codec, tokenizer, settings)
    if not utterances:
        return None
    log.info("choosing the attention heads that follow the text, on %d validation utterances", len(utterances))
    choice = choose_heads(model, measure_heads(model, utterances))
    if not source.is_reference:
        _save(path, source, choice, len(utterances))
    return choice


def read_heads(path: Path, source: Checkpoint, model: CodecLM) -> HeadChoice | None:
    """The choice in a file, if there is one for this checkpoint. Raises UserError if the file is damaged."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        heads = tuple((int(layer), int(head)) for layer, head in content["heads"])
        is_known = set(heads) <= set(model.attention_heads)
        choice = HeadChoice(heads, float(content["diagonality"]))
        return choice if content["checkpoint"] == source.path.name and is_known else None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged; remove it, and the next inference chooses the heads again") from error


def _save(path: Path, source: Checkpoint, choice: HeadChoice, num_utterances: int) -> None:
    content: dict[str, Any] = {
        "checkpoint": source.path.name,
        "heads": choice.heads,
        "diagonality": round(choice.best, 4),
        "num_utterances": num_utterances,
    }
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
    except OSError as error:
        # The folder may be read-only: the choice then counts for this process.
        log.warning("%s cannot be written (%s)", path, error.strerror)


def _validation_utterances(
    codec: Codec, tokenizer: TextTokenizer, settings: Settings
) -> list[tuple[list[int], Tensor]]:
    """Ids and codes of the first validation utterances of each corpus; those of another codec do not count."""
    processed_dir = settings.preprocess.processed_dir
    if is_url(processed_dir):
        return []
    found: list[tuple[list[int], Tensor]] = []
    for name in settings.dataset:
        folder = resolve_path(processed_dir, ROOT) / name
        try:
            stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
            if stats["codec"] != codec.fingerprint():
                continue
            rows = list(islice(read_shards(list_shards(folder / "valid")), _NUM_UTTERANCES))
        except (OSError, ValueError, KeyError, TypeError, UserError):
            continue
        found += [(tokenizer.ids(row.phones), torch.from_numpy(row.codes).long()) for row in rows]
    return found
