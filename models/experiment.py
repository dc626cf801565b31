"""Where a trained model lies: an experiment's folder, and the checked loading of its weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from config.schema import Settings, ValleSettings
from models import model_class
from models.contract import CodecLM, TokenizedRequest
from models.valle.reference import adapted_settings, frame_limits
from utils.checkpoint import Checkpoint, experiment_of, load_meta, load_weights
from utils.config import read_settings, read_values
from utils.errors import UserError
from utils.log import log
from utils.paths import ROOT

MEASURED_LIMITS = ("min_seconds_per_phone", "max_seconds_per_phone")
"""Keys of the infer section that follow the corpus where they are null."""


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

    def codec(self, file_name: str) -> Path:
        """The codec's own file: fitted codebooks, or the local weights that the codes were made with."""
        return self.folder / file_name

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoint"

    def settings(self, overrides: Sequence[str] = ()) -> Settings:
        """Raises UserError when the folder has no settings, or they or the overrides are wrong."""
        if not self.args.is_file():
            raise UserError(f"{self.args}: missing; {self.folder} is no experiment folder")
        # Settings that are newer than the experiment get their defaults; those of the model are its own recipe's.
        is_valle = read_values(self.args).get("model_type", "VALLE") == "VALLE"
        return read_settings(
            self.args,
            Settings,
            overrides,
            defaults=ROOT / "config" / ("valle.json" if is_valle else "tts.json"),
            root=ROOT,
            adapt=self._adapted if self.is_reference else None,
        )

    def _adapted(self, content: Mapping[str, Any]) -> dict[str, Any]:
        settings, remarks = adapted_settings(content)
        for remark in remarks:
            log.info("%s: %s", self.args, remark)
        return settings


def load_model(source: Checkpoint, settings: Settings) -> CodecLM:
    """A checkpoint's model, whole. Raises UserError where a part of it is missing."""
    weights = load_weights(source)
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


def check_codec(source: Checkpoint, fingerprint: str) -> None:
    """Raises UserError when a checkpoint's codes were made by another codec: its speech would be noise."""
    if load_meta(source)["codec"] not in (None, fingerprint):
        raise UserError(f"preprocess.codec_checkpoint: not the codec that {source.path} was trained with")


def load_checked(model: CodecLM, weights: dict[str, Tensor], source: Checkpoint | None, assign: bool = False) -> None:
    """Load weights of all parts of a model or of some; raises UserError naming the checkpoint when they do not fit."""
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
    """The least and the most frames that the reference recipe generates with its own folders."""
    return partial(frame_limits, settings=cast(ValleSettings, settings.model))


def holds_whole_model(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds a whole model. Raises UserError where it or its experiment is damaged."""
    settings = Experiment.of(checkpoint).settings()
    return model_class(settings.model_type).missing_part(load_weights(checkpoint), None) is None
