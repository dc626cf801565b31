"""The output of stage 1, as training reads it."""

import json
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from config.schema import Settings
from models.experiment import longest_sequences
from processors.codecs import codec_class
from processors.lexicon import lexicon_fingerprint
from processors.manifest import shard_path
from processors.symbols import SymbolTable
from utils.config import resolve_path
from utils.errors import UserError
from utils.log import log
from utils.paths import ROOT
from utils.remote import fetch, is_url

# Synthesized speech may go beyond the corpus's quantiles by these factors: prompts of other speakers may be faster.
_FASTER, _SLOWER = 0.8, 1.5


@dataclass(frozen=True)
class PreprocessedData:
    """The output of stage 1 for the corpora of an experiment; an epoch has about `num_utterances`.

    `seconds_per_phone` are the lowest and the highest quantile of any corpus; None where one was never measured.
    `longest_seconds` is the highest quantile of the utterances' lengths, or None. `normalize_text` is how the texts
    were read.
    """

    train_shards: list[str]
    valid_shards: list[str]
    phones: tuple[str, ...]
    num_utterances: int
    codec: Path | None
    codec_fingerprint: str
    seconds_per_phone: tuple[float, float] | None = None
    normalize_text: str = "none"
    longest_seconds: float | None = None


def read_preprocessed(settings: Settings) -> PreprocessedData:
    """Raises UserError where stage 1 has not run, ran with other settings, or left nothing to train on."""
    processed_dir = settings.preprocess.processed_dir.rstrip("/")
    if not is_url(processed_dir):
        processed_dir = str(resolve_path(processed_dir, ROOT))
    train: list[str] = []
    valid: list[str] = []
    num_utterances = 0
    phones: set[str] = set()
    fingerprints: dict[str, str] = {}
    readings: set[str] = set()
    lexicon = lexicon_fingerprint(settings.preprocess)
    paces: list[dict[str, float]] = []
    lengths: list[dict[str, float]] = []
    for name in settings.dataset:
        folder = f"{processed_dir}/{name}"
        stats = _read_stats(fetch(f"{folder}/stats.json"))
        recorded = stats["settings"]
        # Data of versions without this setting are `none`, which a new default must not change.
        readings.add(recorded.get("normalize_text", "none"))
        for key, value in recorded.items():
            if getattr(settings.preprocess, key) != value:
                now = getattr(settings.preprocess, key)
                raise UserError(f"{folder}: made with preprocess.{key} {value!r}, now {now!r}; run stage 1 again")
        if stats.get("lexicon") != lexicon:
            raise UserError(f"{folder}: made with another preprocess.lexicon, or another content; run stage 1 again")
        fingerprints[stats["codec"]] = name
        train += [shard_path(folder, "train", index) for index in stats["splits"]["train"]["shards"]]
        valid += [shard_path(folder, "valid", index) for index in stats["splits"]["valid"]["shards"]]
        num_utterances += ceil(settings.train.dataset_weights.get(name, 1.0) * stats["splits"]["train"]["utterances"])
        phones.update(SymbolTable.load(fetch(f"{folder}/symbols.dict")).phones)
        paces.append(stats.get("seconds_per_phone") or {})
        lengths.append(stats.get("seconds") or {})
    if len(fingerprints) > 1:
        raise UserError(f"{processed_dir}: {' and '.join(fingerprints.values())} differ in codec; run stage 1 again")
    if len(readings) > 1:
        raise UserError(
            f"{processed_dir}: {', '.join(settings.dataset)} differ in preprocess.normalize_text; set it to none, and "
            "run stage 1 again"
        )
    if not num_utterances:
        raise UserError(f"{processed_dir}: nothing to train on in {', '.join(settings.dataset)}; see each stats.json")
    codec = codec_class(settings.preprocess.acoustic_token_extractor)
    codec_file = codec.weights_file(settings.preprocess, ROOT)
    if codec.is_fitted:
        codec_file = fetch(f"{processed_dir}/{codec.file_name}")
    pace = (min(min(p.values()) for p in paces), max(max(p.values()) for p in paces)) if all(paces) else None
    # A corpus that was not measured may have the longest utterances.
    longest_seconds = max(max(of.values()) for of in lengths) if all(lengths) else None
    return PreprocessedData(
        train,
        valid,
        tuple(sorted(phones)),
        num_utterances,
        codec_file,
        next(iter(fingerprints)),
        pace,
        readings.pop(),
        longest_seconds,
    )


def with_recorded_text(settings: Settings, data: PreprocessedData) -> Settings:
    """Settings that read texts as stage 1 read them: data of older versions keep `none`."""
    if settings.preprocess.normalize_text == data.normalize_text:
        return settings
    log.info("preprocess.normalize_text: %s, as the data were made with it", data.normalize_text)
    preprocess = settings.preprocess.model_copy(update={"normalize_text": data.normalize_text})
    return settings.model_copy(update={"preprocess": preprocess})


def with_measured_limits(settings: Settings, data: PreprocessedData) -> Settings:
    """Settings with limits of speaking rate and length that follow the corpus, where they have none of their own."""
    measured: dict[str, float] = {}
    if data.seconds_per_phone is not None:
        measured["min_seconds_per_phone"] = _FASTER * data.seconds_per_phone[0]
        measured["max_seconds_per_phone"] = _SLOWER * data.seconds_per_phone[1]
    if data.longest_seconds is not None:
        measured |= longest_sequences(data.longest_seconds, settings.train)
    unset = {name: round(value, 5) for name, value in measured.items() if getattr(settings.infer, name) is None}
    return settings.model_copy(update={"infer": settings.infer.model_copy(update=unset)})


def _read_stats(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: missing; run stage 1 first")
    try:
        stats: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if {"settings", "codec", "splits"} <= stats.keys() and all("shards" in of for of in stats["splits"].values()):
            return stats
    except (ValueError, AttributeError, TypeError):
        pass
    raise UserError(f"{path}: not as stage 1 writes it; run stage 1 again")
