"""An experiment folder: its files, its settings, and the checked loading of its weights."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from config.schema import LoraSettings, Settings, TrainSettings, ValleSettings
from models import model_class
from models.adapter import fingerprint, merged
from models.contract import CodecLM, TokenizedRequest
from models.valle.reference import adapted_settings, frame_limits
from utils.checkpoint import META, Checkpoint, experiment_of, load_meta, load_weights, resolve_checkpoint
from utils.config import read_settings, read_values, resolve_path
from utils.errors import UserError
from utils.log import log
from utils.paths import ROOT

MEASURED_LIMITS = ("min_seconds_per_phone", "max_seconds_per_phone", "max_part_seconds", "max_total_seconds")
"""Keys of the infer section that are measured on the corpus if they are null."""


@dataclass(frozen=True)
class Experiment:
    """A folder with `args.json`, `symbols.dict`, perhaps a codec file and a lexicon, `checkpoint/`, `log/`, `result/`.

    `is_reference` marks a folder that the reference recipe made: it is read, never written.
    """

    folder: Path
    is_reference: bool = False

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Experiment":
        """The experiment of a checkpoint."""
        return cls(experiment_of(checkpoint), checkpoint.is_reference)

    @property
    def args(self) -> Path:
        return self.folder / "args.json"

    @property
    def symbols(self) -> Path:
        return self.folder / "symbols.dict"

    @property
    def lexicon(self) -> Path:
        return self.folder / "lexicon.tsv"

    @property
    def attention_heads(self) -> Path:
        """Which attention heads follow the text, chosen at the first inference."""
        return self.folder / "attention_heads.json"

    def codec(self, file_name: str) -> Path:
        """The path of the codec's file: fitted codebooks, or the local weights that made the codes."""
        return self.folder / file_name

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoint"

    def settings(self, overrides: Sequence[str] = ()) -> Settings:
        """Read `args.json`. Raises UserError if it is missing, or it or an override is wrong."""
        if not self.args.is_file():
            raise UserError(f"{self.args}: missing; {self.folder} is no experiment folder")
        # Settings newer than the experiment get their defaults. Only VALL-E has defaults for its `model` section.
        content = read_values(self.args)
        is_valle = content.get("model_type", "VALLE") == "VALLE"
        settings = read_settings(
            self.args,
            Settings,
            overrides,
            defaults=ROOT / "config" / ("valle.json" if is_valle else "tts.json"),
            root=ROOT,
            adapt=self._adapted,
        )
        # The copy in the folder is what the model was trained with. An override names another one.
        lexicon = settings.preprocess.lexicon
        if lexicon is not None and self.lexicon.is_file() and lexicon == _saved_lexicon(content):
            preprocess = settings.preprocess.model_copy(update={"lexicon": str(self.lexicon.absolute())})
            settings = settings.model_copy(update={"preprocess": preprocess})
        return settings

    def _adapted(self, content: Mapping[str, Any]) -> dict[str, Any]:
        adapted = dict(content)
        if self.is_reference:
            adapted, remarks = adapted_settings(content)
            for remark in remarks:
                log.info("%s: %s", self.args, remark)
        # Experiments older than this setting were trained on texts as they were written.
        if isinstance(adapted.get("preprocess", {}), Mapping):
            adapted["preprocess"] = {"normalize_text": "none", **adapted.get("preprocess", {})}
        return adapted


def _saved_lexicon(content: Mapping[str, Any]) -> Any:
    preprocess = content.get("preprocess")
    return preprocess.get("lexicon") if isinstance(preprocess, Mapping) else None


def load_model(source: Checkpoint, settings: Settings) -> CodecLM:
    """The complete model of a checkpoint. Raises UserError if a part of it is missing."""
    weights = read_weights(source)
    kind = model_class(settings.model_type)
    if part := kind.missing_part(weights, None):
        raise UserError(
            f"--infer_expt_dir: {source.path} holds no {part}; train one with it (--model_train_stage 2) and name that "
            "experiment"
        )
    with torch.device("meta"):
        model = kind(settings.model)
    load_checked(model, weights, source, assign=True)
    return model


@dataclass(frozen=True)
class AdapterOrigin:
    """What a checkpoint records of an adapter: its base, the base's `fingerprint`, and its settings."""

    base: Checkpoint
    fingerprint: str
    settings: LoraSettings

    def to_meta(self) -> dict[str, Any]:
        """For `meta.json`. A base below the repository's root has a path relative to it."""
        path = self.base.path.absolute()
        base = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        return {"base": str(base), "fingerprint": self.fingerprint, **self.settings.model_dump()}


def adapter_origin(source: Checkpoint) -> AdapterOrigin:
    """The origin of an adapter. Its base is looked for at its recorded path, then beside the adapter's experiment.

    Raises UserError if the base is missing.
    """
    meta_file = source.path / META
    try:
        recorded = dict(load_meta(source)["adapter"])
        base, expected = Path(recorded.pop("base")), str(recorded.pop("fingerprint"))
        settings = LoraSettings.model_validate(recorded)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{meta_file}: does not name the base of the adapter; use another checkpoint") from error
    # An experiment's folder, its `checkpoint` folder and the checkpoint are the last three parts.
    beside = experiment_of(source).parent.joinpath(*base.parts[-3:])
    for path in (resolve_path(str(base), ROOT), beside):
        with suppress(UserError):
            found = resolve_checkpoint(path, str(meta_file))
            if not found.is_adapter:
                return AdapterOrigin(found, expected, settings)
    raise UserError(f'{source.path}: its base {base} is missing; put it back, or name it as "base" in {meta_file}')


def read_weights(source: Checkpoint) -> dict[str, Tensor]:
    """The weights of a checkpoint by name; an adapter is merged into its base.

    Raises UserError if a file is damaged, or the base is missing or another one.
    """
    if not source.is_adapter:
        return load_weights(source)
    origin = adapter_origin(source)
    try:
        return merged(read_base(origin, source), load_weights(source), origin.settings)
    except ValueError as error:
        raise UserError(f"{source.path}: {error}; use another checkpoint") from error


def read_base(origin: AdapterOrigin, source: Checkpoint) -> dict[str, Tensor]:
    """The weights of the base of an adapter. Raises UserError if they are not those that it was trained on."""
    weights = load_weights(origin.base)
    if fingerprint(weights) != origin.fingerprint:
        raise UserError(
            f"{source.path}: {origin.base.path} is not the base that it was trained on; name that one as "
            f'"base" in {source.path / META}'
        )
    return weights


def check_codec(source: Checkpoint, fingerprint: str) -> None:
    """Raises UserError if a checkpoint was trained on another codec's codes: its speech would be noise."""
    if load_meta(source)["codec"] not in (None, fingerprint):
        raise UserError(f"preprocess.codec_checkpoint: not the codec that {source.path} was trained with")


def check_guidance(settings: Settings) -> None:
    """Raises UserError if the model cannot drop texts or be guided as the settings ask, or was not trained for it."""
    for key, is_used in (
        ("train.condition_dropout", settings.train.condition_dropout > 0),
        ("infer.guidance", settings.infer.guidance != 1),
    ):
        if is_used and not model_class(settings.model_type).supports_guidance:
            default = "0" if key.startswith("train") else "1"
            raise UserError(f"{key}: {settings.model_type} has no guidance; set it to {default}")
    if settings.infer.guidance != 1 and not settings.train.condition_dropout:
        raise UserError(
            "infer.guidance: the AR was trained without train.condition_dropout, and predicts nothing of use without a "
            "text; set it to 1, or train the AR with train.condition_dropout 0.1"
        )


def longest_sequences(utterance_seconds: float, settings: TrainSettings) -> dict[str, float]:
    """How long speech may be, alone and after a prompt, after a training on utterances of at most this length.

    Joined examples are two utterances, as a prompt and a text are.
    """
    total_seconds = 2 * utterance_seconds if settings.join_probability else utterance_seconds
    return {"max_part_seconds": utterance_seconds, "max_total_seconds": total_seconds}


def load_checked(model: CodecLM, weights: dict[str, Tensor], source: Checkpoint | None, assign: bool = False) -> None:
    """Load the weights of a model, or of some of its parts.

    Raises UserError naming the checkpoint if a weight does not fit, or a part is incomplete.
    """
    path = source.path if source else "weights"
    try:
        missing = model.load_named_weights(weights, assign)
    except ValueError as error:
        raise UserError(f"{path}: {error}; the model settings differ") from error
    given = {model.part_of(name) for name in weights}
    lacking = [name for name in missing if model.part_of(name) in given]
    if lacking:
        raise UserError(f"{path}: {len(lacking)} weights are missing, such as {lacking[0]}; the model settings differ")


def reference_limits(settings: Settings) -> Callable[[TokenizedRequest], tuple[int, int]]:
    """For a request, the minimum and maximum number of frames that the reference recipe generates."""
    return partial(frame_limits, settings=cast(ValleSettings, settings.model))


def holds_whole_model(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds a complete model. Raises UserError if it or its experiment is damaged."""
    settings = Experiment.of(checkpoint).settings()
    # Names are enough: an adapter is not merged.
    holder = adapter_origin(checkpoint).base if checkpoint.is_adapter else checkpoint
    return model_class(settings.model_type).missing_part(load_weights(holder), None) is None
