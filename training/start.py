"""The initial state of a training, from the flags of stage 2 and the checkpoints that they name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from config.schema import Settings
from models import model_class
from models.adapter import fingerprint
from models.contract import CodecLM
from models.experiment import AdapterOrigin, Experiment, adapter_origin, read_base, read_weights
from processors.codecs import codec_class
from processors.symbols import SymbolTable
from training.prepared import PreprocessedData
from utils.checkpoint import (
    Checkpoint,
    find_checkpoints,
    load_meta,
    load_weights,
    resolve_checkpoint,
    set_aside,
)
from utils.config import resolve_path, save_settings
from utils.errors import UserError
from utils.files import copy_file
from utils.log import log
from utils.paths import ROOT

ResumeType = Literal["resume", "finetune"]


@dataclass(frozen=True)
class InitialState:
    """`resume_from` restores everything; otherwise training starts from `weights`, which may be empty.

    `is_new` says that no checkpoint of the same model is continued; of a pretrained part, the weights may be given.
    `superseded` are the experiment's own checkpoints that this training does not continue. `pretrained` is the
    checkpoint that the pretrained part comes from, in a stage that has one. With an `adapter` to train, `weights` are
    those of its base.
    """

    table: SymbolTable
    weights: dict[str, Tensor]
    resume_from: Checkpoint | None
    is_new: bool
    superseded: list[Checkpoint]
    pretrained: Checkpoint | None = None
    adapter: AdapterOrigin | None = None

    def continues(self, experiment: Experiment) -> bool:
        """Whether training goes on from the newest checkpoint of the experiment itself."""
        if self.resume_from is None or self.superseded:
            return False
        return experiment.checkpoints.is_dir() and experiment.checkpoints.samefile(self.resume_from.path.parent)


def resolve_start(
    settings: Settings,
    experiment: Experiment,
    data: PreprocessedData,
    train_stage: int,
    ar_model: Path | None,
    resume: bool,
    resume_from: Path | None,
    resume_type: ResumeType,
) -> InitialState:
    """Resolve the flags to an initial state. No file is changed yet.

    Raises UserError for flags that do not fit each other or the folders they name.
    """
    existing = find_checkpoints(experiment.checkpoints)
    if existing and existing[-1].is_reference:
        raise UserError(f"--name: {experiment.folder} holds a model of another recipe; choose a name of your own")
    kind = model_class(settings.model_type)
    pretrained = None if ar_model is None else resolve_checkpoint(ar_model, "--ar_model_ckpt_dir")
    source = _checkpoint_to_start_from(experiment, existing, resume, resume_from)
    _check_stage(settings.model_type, kind, train_stage, source, pretrained)
    adapter = _adapter_to_train(settings, experiment, source, pretrained, resume_type)
    table = _extended_table(settings, data, kind, source, pretrained)
    if adapter is not None:
        num_new = len(table) - len(SymbolTable.load(Experiment.of(adapter.base).symbols))
        if num_new:
            log.warning("%d phones are new to the base, and an adapter does not train their embeddings", num_new)

    weights = {} if source is None else _weights_for(train_stage, source, kind, adapter)
    if pretrained is not None:
        pretrained_weights = kind.pretrained_part(read_weights(pretrained))
        if source is None or resume_type != "resume":
            weights |= pretrained_weights
        elif not _equal(pretrained_weights, kind.pretrained_part(weights)):
            # A resumed run keeps the pretrained part that it was trained with.
            raise UserError(
                f"--ar_model_ckpt_dir: {pretrained.path} is not the AR model in {source.path}; leave the flag out, "
                "or use --resume_type finetune"
            )
    origin = (pretrained or source) if train_stage in kind.pretrained_stages else None
    if source is None or resume_type != "resume":
        return InitialState(table, weights, None, source is None, existing, origin, adapter)

    if not source.can_resume:
        raise UserError(f"--resume_type: {source.path} holds weights alone; continue from it with finetune")
    trained = load_meta(source)["train_stage"]
    if trained != train_stage:
        raise UserError(f"--model_train_stage: {source.path} was trained with {trained}, not {train_stage}")
    # The same folder may be written in several ways, by a link or with "..".
    is_own = bool(existing) and experiment.checkpoints.samefile(source.path.parent)
    superseded = [checkpoint for checkpoint in existing if checkpoint.step > source.step or not is_own]
    return InitialState(table, {} if adapter is None else weights, source, False, superseded, origin, adapter)


def _adapter_to_train(
    settings: Settings,
    experiment: Experiment,
    source: Checkpoint | None,
    pretrained: Checkpoint | None,
    resume_type: ResumeType,
) -> AdapterOrigin | None:
    """The adapter that the settings ask for; None if the weights themselves train.

    Raises UserError where there is no model to adapt, or the adapter that is resumed has other settings.
    """
    lora = settings.train.lora
    is_resumed = source is not None and resume_type == "resume"
    if is_resumed and source is not None and source.is_adapter:
        origin = adapter_origin(source)
        if origin.settings != lora:
            trained = ", ".join(f"{key} {value}" for key, value in origin.settings.model_dump().items())
            raise UserError(f"train.lora: {source.path} is an adapter of {trained}; resume it with these settings")
        return origin
    if not lora.rank:
        return None
    if source is None or is_resumed:
        found = "" if source is None else f"{source.path} is no adapter; "
        raise UserError(
            f"train.lora.rank: {found}an adapter begins with a trained model, named by --resume_from_ckpt_path, and "
            "--resume_type finetune"
        )
    if source.is_adapter:
        raise UserError(f"train.lora.rank: {source.path} is an adapter; merge it first (bins/convert.py --merge)")
    if pretrained is not None:
        raise UserError("--ar_model_ckpt_dir: an adapter keeps the AR model of its base; leave the flag out")
    if experiment.checkpoints.is_dir() and experiment.checkpoints.samefile(source.path.parent):
        raise UserError("--name: an adapter cannot be in the folder of its base; choose another name")
    return AdapterOrigin(source, fingerprint(load_weights(source)), lora)


def _check_stage(
    model_type: str, kind: type[CodecLM], train_stage: int, source: Checkpoint | None, pretrained: Checkpoint | None
) -> None:
    """Raises UserError where the model has no such stage, or the stage and --ar_model_ckpt_dir do not fit."""
    if train_stage not in kind.train_stages:
        stages = ", ".join(map(str, sorted(kind.train_stages)))
        raise UserError(f"--model_train_stage: {model_type} has {stages}, not {train_stage}")
    if pretrained is not None and train_stage not in kind.pretrained_stages:
        stages = ", ".join(map(str, sorted(kind.pretrained_stages))) or "other models"
        raise UserError(f"--ar_model_ckpt_dir is for --model_train_stage {stages}")
    if source is None and train_stage in kind.pretrained_stages and pretrained is None:
        raise UserError(
            f"--ar_model_ckpt_dir: needed with --model_train_stage {train_stage}, to name the trained AR model"
        )


def _extended_table(
    settings: Settings,
    data: PreprocessedData,
    kind: type[CodecLM],
    source: Checkpoint | None,
    pretrained: Checkpoint | None,
) -> SymbolTable:
    """The symbols of the checkpoints that training starts from, whose ids stay, and after them the data's new phones.

    Raises UserError where training cannot continue from these checkpoints, or there are too many symbols.
    """
    table = SymbolTable()
    free_keys = kind.free_settings
    for ancestor, may_differ in ((source, free_keys), (pretrained, free_keys | kind.free_pretrained_settings)):
        if ancestor is not None:
            origin = Experiment.of(ancestor)
            _check_compatible(settings, data, ancestor, may_differ)
            table = _merged(table, SymbolTable.load(origin.symbols), origin)
    table = table.extended(phone for phone in data.phones if phone not in table)
    if len(table) > settings.model.text_token_num:
        raise UserError(f"model.text_token_num {settings.model.text_token_num} is too small for {len(table)} symbols")
    return table


def with_kept_schedule(settings: Settings, start: InitialState) -> Settings:
    """For a resumed run whose `total_training_steps` was fixed: use that number where the settings have null.

    So its learning rates stay the same.
    """
    if start.resume_from is None or settings.train.total_training_steps is not None:
        return settings
    total = Experiment.of(start.resume_from).settings().train.total_training_steps
    if total is None:
        return settings
    log.info("train.total_training_steps: %d, as this run began with it", total)
    train = settings.train.model_copy(update={"total_training_steps": total})
    return settings.model_copy(update={"train": train})


def with_kept_max_tokens(settings: Settings, start: InitialState) -> Settings:
    """For a resumed run: the number that `max_tokens` auto stood for, so that its batches stay the same."""
    if start.resume_from is None or settings.train.max_tokens != "auto":
        return settings
    kept = Experiment.of(start.resume_from).settings().train.max_tokens
    log.info("train.max_tokens: %s, as this run began with it", kept)
    return settings.model_copy(update={"train": settings.train.model_copy(update={"max_tokens": kept})})


def with_kept_dropout(settings: Settings, start: InitialState) -> Settings:
    """For a stage with a pretrained part, which does not train: the `condition_dropout` that it was trained with.

    So the experiment's settings say whether its speech can be guided.
    """
    if start.pretrained is None:
        return settings
    kept = Experiment.of(start.pretrained).settings().train.condition_dropout
    if kept == settings.train.condition_dropout:
        return settings
    log.info("train.condition_dropout: %g, as the AR model was trained with it", kept)
    return settings.model_copy(update={"train": settings.train.model_copy(update={"condition_dropout": kept})})


def _checkpoint_to_start_from(
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
            f"--name: {experiment.folder} has checkpoints already; continue with --resume true, or choose another name"
        )
    return None


def _weights_for(
    train_stage: int, source: Checkpoint, kind: type[CodecLM], adapter: AdapterOrigin | None
) -> dict[str, Tensor]:
    """The weights that a stage starts from, or an adapter's base.

    Raises UserError when the checkpoint lacks a part that the stage needs.
    """
    weights = read_weights(source) if adapter is None else read_base(adapter, source)
    if part := kind.missing_part(weights, train_stage):
        raise UserError(
            f"--resume_from_ckpt_path: {source.path} holds no {part}, which --model_train_stage {train_stage} needs"
        )
    return kind.part_for(weights, train_stage)


def _equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(value.equal(others[name]) for name, value in some.items())


def _check_compatible(
    settings: Settings, data: PreprocessedData, ancestor: Checkpoint, may_differ: frozenset[str]
) -> None:
    """Raises UserError when training cannot continue from a checkpoint with these settings and this data."""
    origin = Experiment.of(ancestor)
    before = origin.settings()
    if settings.model_type != before.model_type:
        raise UserError(f"model_type is {settings.model_type}, but {before.model_type} in {origin.args}")
    for section, keys in (
        ("model", set(type(settings.model).model_fields) - may_differ),
        ("preprocess", {"acoustic_token_extractor", "add_blank", "sample_rate", "phone_extractor"}),
    ):
        for key in sorted(keys):
            here, there = getattr(getattr(settings, section), key), getattr(getattr(before, section), key)
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


def write_experiment(experiment: Experiment, settings: Settings, data: PreprocessedData, start: InitialState) -> None:
    """Write what inference needs beside a checkpoint: settings, symbols and, where they are files, codec, lexicon."""
    experiment.folder.mkdir(parents=True, exist_ok=True)
    save_settings(settings, experiment.args)
    start.table.save(experiment.symbols)
    codec = codec_class(settings.preprocess.acoustic_token_extractor)
    if data.codec is not None:
        codec.copy_weights(data.codec, experiment.codec(codec.file_name))
    lexicon = settings.preprocess.lexicon
    if lexicon is not None:
        copy_file(resolve_path(lexicon, ROOT), experiment.lexicon)


def supersede(checkpoints: Sequence[Checkpoint]) -> None:
    """Move the checkpoints that this training does not continue to `checkpoint/superseded`."""
    moved = set_aside(checkpoints)
    if moved is not None:
        log.info("%d checkpoints that this run does not continue were moved to %s", len(checkpoints), moved)
