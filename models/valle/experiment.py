"""An experiment's folder: what it holds, how a training starts in it, and how inference loads it."""

import filecmp
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from config.schema import Settings
from models.valle.reference import adapted_settings
from processors.manifest import shard_path
from processors.symbols import SymbolTable
from utils.checkpoint import (
    Checkpoint,
    experiment_of,
    find_checkpoints,
    load_meta,
    load_weights,
    resolve_checkpoint,
    set_aside,
)
from utils.cli import ROOT
from utils.config import read_settings, resolve_path, save_settings
from utils.errors import UserError
from utils.files import written_aside
from utils.log import log
from utils.remote import fetch, is_url

CODEC_FILES = {"MelRVQ": "mel_rvq.safetensors", "Encodec": "encodec.th"}
# How far beyond the quantiles of the corpus speech may be: prompts of other speakers are faster or slower.
_FASTER, _SLOWER = 0.8, 1.5
MEASURED_LIMITS = ("min_seconds_per_phone", "max_seconds_per_phone")
"""Keys of the infer section that follow the corpus where they are null."""
ResumeType = Literal["resume", "finetune"]
# Keys of the model section that no weight depends on, and those that only the NAR's do.
_FREE_KEYS = {"dropout", "prefix_mode"}
_NAR_KEYS = {"nar_scale_factor", "share_embedding", "num_quantizers"}


@dataclass(frozen=True)
class Experiment:
    """`args.json`, `symbols.dict`, the codec where it is a file, `checkpoint/`, `log/` and `result/`.

    `is_reference` where the reference recipe made the folder: it is read, never written.
    """

    folder: Path
    is_reference: bool = False

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Experiment":
        """The experiment that a checkpoint lies in."""
        return cls(experiment_of(checkpoint), checkpoint.is_reference)

    @property
    def args(self) -> Path:
        return self.folder / "args.json"

    @property
    def symbols(self) -> Path:
        return self.folder / "symbols.dict"

    def codec(self, extractor: str) -> Path:
        """The codec's own file: fitted codebooks, or the local weights that the codes were made with."""
        return self.folder / CODEC_FILES[extractor]

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoint"

    def settings(self, overrides: Sequence[str] = ()) -> Settings:
        """Raises UserError when the folder has no settings, or they or the overrides are wrong."""
        if not self.args.is_file():
            raise UserError(f"{self.args}: missing; {self.folder} is no experiment folder")
        # Settings that are younger than the experiment have their defaults.
        return read_settings(
            self.args,
            Settings,
            overrides,
            defaults=ROOT / "config" / "valle.json",
            root=ROOT,
            adapt=partial(adapted_settings, path=self.args) if self.is_reference else None,
        )


@dataclass(frozen=True)
class PreparedData:
    """What stage 1 left for the corpora of an experiment; an epoch has about `num_utterances`.

    `seconds_per_phone` are the lowest and the highest quantile of any corpus; None where one was never measured.
    """

    train_shards: list[str]
    valid_shards: list[str]
    phones: tuple[str, ...]
    num_utterances: int
    codec: Path | None
    codec_fingerprint: str
    seconds_per_phone: tuple[float, float] | None = None


def read_prepared(settings: Settings) -> PreparedData:
    """Raises UserError where stage 1 has not run, ran with other settings, or left nothing to train on."""
    processed_dir = settings.preprocess.processed_dir.rstrip("/")
    if not is_url(processed_dir):
        processed_dir = str(resolve_path(processed_dir, ROOT))
    train: list[str] = []
    valid: list[str] = []
    num_utterances = 0
    phones: set[str] = set()
    fingerprints: dict[str, str] = {}
    paces: list[dict[str, float]] = []
    for name in settings.dataset:
        folder = f"{processed_dir}/{name}"
        stats = _read_stats(fetch(f"{folder}/stats.json"))
        for key, value in stats["settings"].items():
            if getattr(settings.preprocess, key) != value:
                now = getattr(settings.preprocess, key)
                raise UserError(f"{folder}: made with preprocess.{key} {value!r}, now {now!r}; run stage 1 again")
        fingerprints[stats["codec"]] = name
        train += [shard_path(folder, "train", index) for index in stats["splits"]["train"]["shards"]]
        valid += [shard_path(folder, "valid", index) for index in stats["splits"]["valid"]["shards"]]
        num_utterances += round(settings.train.dataset_weights.get(name, 1.0) * stats["splits"]["train"]["utterances"])
        phones.update(SymbolTable.load(fetch(f"{folder}/symbols.dict")).phones)
        paces.append(stats.get("seconds_per_phone") or {})
    if len(fingerprints) > 1:
        raise UserError(f"{processed_dir}: {' and '.join(fingerprints.values())} differ in codec; run stage 1 again")
    if not num_utterances:
        raise UserError(f"{processed_dir}: nothing to train on in {', '.join(settings.dataset)}; see each stats.json")
    # Validation sees the first batches: those of every corpus.
    valid.sort(key=lambda shard: shard.rsplit("/", 1)[1])
    weights = settings.preprocess.codec_checkpoint
    codec_file = None if weights is None else resolve_path(weights, ROOT)
    if settings.preprocess.acoustic_token_extractor == "MelRVQ":
        codec_file = fetch(f"{processed_dir}/{CODEC_FILES['MelRVQ']}")
    pace = (min(min(p.values()) for p in paces), max(max(p.values()) for p in paces)) if all(paces) else None
    return PreparedData(train, valid, tuple(sorted(phones)), num_utterances, codec_file, next(iter(fingerprints)), pace)


def with_measured_limits(settings: Settings, data: PreparedData) -> Settings:
    """Settings whose speech may be as fast and as slow as the corpus is, and somewhat more, where they do not say."""
    if data.seconds_per_phone is None:
        return settings
    measured = (_FASTER * data.seconds_per_phone[0], _SLOWER * data.seconds_per_phone[1])
    unset = {
        name: round(value, 5)
        for name, value in zip(MEASURED_LIMITS, measured, strict=True)
        if getattr(settings.infer, name) is None
    }
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


@dataclass(frozen=True)
class Start:
    """What a training begins with: `resume_from` restores everything; `weights` are only weights."""

    table: SymbolTable
    weights: dict[str, Tensor]
    resume_from: Checkpoint | None
    superseded: list[Checkpoint]


def plan_start(
    settings: Settings,
    experiment: Experiment,
    data: PreparedData,
    train_stage: int,
    ar_model: Path | None,
    resume: bool,
    resume_from: Path | None,
    resume_type: ResumeType,
) -> Start:
    """Decide what a training begins with, and change nothing yet.

    Raises UserError for flags that do not fit each other or the folders they name.
    """
    existing = find_checkpoints(experiment.checkpoints)
    if existing and existing[-1].is_reference:
        raise UserError(f"--name: {experiment.folder} holds a model of another recipe; choose a name of your own")
    ar_source = None if ar_model is None else resolve_checkpoint(ar_model, "--ar_model_ckpt_dir")
    if ar_source is not None and train_stage != 2:
        raise UserError("--ar_model_ckpt_dir is for --model_train_stage 2")
    source = _source(experiment, existing, resume, resume_from)
    if source is None and train_stage == 2 and ar_source is None:
        raise UserError("--ar_model_ckpt_dir: needed with --model_train_stage 2, to name the trained AR model")
    table = SymbolTable()
    for ancestor, may_differ in ((source, _FREE_KEYS), (ar_source, _FREE_KEYS | _NAR_KEYS)):
        if ancestor is not None:
            origin = Experiment.of(ancestor)
            _check_compatible(settings, data, ancestor, may_differ)
            table = _merged(table, SymbolTable.load(origin.symbols), origin)
    table = table.extended(phone for phone in data.phones if phone not in table)
    if len(table) > settings.model.text_token_num:
        raise UserError(f"model.text_token_num {settings.model.text_token_num} is too small for {len(table)} symbols")

    weights = {} if source is None else _weights_for(train_stage, source, "--resume_from_ckpt_path")
    if ar_source is not None:
        ar_weights = {name: value for name, value in load_weights(ar_source).items() if name.startswith("ar_")}
        if source is not None and resume_type == "resume":
            if not _equal(ar_weights, {name: value for name, value in weights.items() if name.startswith("ar_")}):
                raise UserError(
                    f"--ar_model_ckpt_dir: {ar_source.path} is not the AR model in {source.path}; leave the flag out, "
                    "or use --resume_type finetune"
                )
        else:
            weights |= ar_weights
    if source is not None and resume_type == "resume":
        if not source.can_resume:
            raise UserError(f"--resume_type: {source.path} holds weights alone; go on from it with finetune")
        trained = load_meta(source)["train_stage"]
        if trained != train_stage:
            raise UserError(f"--model_train_stage: {source.path} was trained with {trained}, not {train_stage}")
        # The same folder may be written in several ways, by a link or with "..".
        is_own = bool(existing) and experiment.checkpoints.samefile(source.path.parent)
        return Start(table, {}, source, [other for other in existing if other.step > source.step or not is_own])
    return Start(table, weights, None, existing)


def _source(
    experiment: Experiment, existing: list[Checkpoint], resume: bool, resume_from: Path | None
) -> Checkpoint | None:
    if resume_from is not None:
        return resolve_checkpoint(resume_from, "--resume_from_ckpt_path")
    if resume:
        if not existing:
            raise UserError(f"--resume: {experiment.checkpoints} holds no checkpoint; start without --resume")
        return existing[-1]
    if existing:
        raise UserError(
            f"--name: {experiment.folder} has checkpoints already; go on with --resume true, or choose another name"
        )
    return None


def _weights_for(train_stage: int, source: Checkpoint, flag: str) -> dict[str, Tensor]:
    """The weights that a stage trains on; raises UserError when the checkpoint lacks a model."""
    weights = load_weights(source)
    if train_stage == 1:
        return {name: value for name, value in weights.items() if name.startswith("ar_")}
    if not any(name.startswith("nar_") for name in weights):
        raise UserError(f"{flag}: {source.path} holds no NAR, which --model_train_stage {train_stage} needs")
    return weights


def _equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(value.equal(others[name]) for name, value in some.items())


def _check_compatible(settings: Settings, data: PreparedData, ancestor: Checkpoint, may_differ: set[str]) -> None:
    """Raises UserError when training cannot go on from a checkpoint with these settings and this data."""
    origin = Experiment.of(ancestor)
    theirs = origin.settings()
    for section, keys in (
        ("model", set(type(settings.model).model_fields) - may_differ),
        ("preprocess", {"acoustic_token_extractor", "add_blank", "sample_rate", "phone_extractor"}),
    ):
        for key in sorted(keys):
            here, there = getattr(getattr(settings, section), key), getattr(getattr(theirs, section), key)
            if here != there:
                raise UserError(f"{section}.{key} is {here!r}, but {there!r} in {origin.args}; make them equal")
    if load_meta(ancestor)["codec"] not in (None, data.codec_fingerprint):
        raise UserError(f"the data's codec is not that of {ancestor.path}; codes would mean other sounds")


def _merged(table: SymbolTable, other: SymbolTable, origin: Experiment) -> SymbolTable:
    """The longer of two tables, of which one must begin with the other, so that no id shifts."""
    shorter, longer = sorted((table.phones, other.phones), key=len)
    if longer[: len(shorter)] != shorter:
        raise UserError(f"{origin.symbols}: another symbol table than the checkpoint's; ids would mean other phones")
    return SymbolTable(longer)


def write_experiment(experiment: Experiment, settings: Settings, data: PreparedData, start: Start) -> None:
    """Put what inference needs into the folder."""
    experiment.folder.mkdir(parents=True, exist_ok=True)
    save_settings(settings, experiment.args)
    start.table.save(experiment.symbols)
    codec = experiment.codec(settings.preprocess.acoustic_token_extractor)
    if data.codec is not None and not (codec.is_file() and filecmp.cmp(data.codec, codec, shallow=False)):
        with written_aside(codec) as path:
            shutil.copyfile(data.codec, path)


def supersede(checkpoints: Sequence[Checkpoint]) -> None:
    """Move aside the checkpoints of an experiment that its new training does not go on from."""
    moved = set_aside(checkpoints)
    if moved is not None:
        log.info("%d checkpoints that this run does not go on from were moved to %s", len(checkpoints), moved)
