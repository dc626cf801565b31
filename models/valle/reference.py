"""Experiment folders of the reference recipe, the format of released models: translates their settings to ours."""

from collections.abc import Iterator, Mapping
from typing import Any

from config.schema import Section, ValleExperiment, ValleSettings
from models.contract import TokenizedRequest

FRAMES_PER_ID = 16
"""The maximum length of a generation, per id of the joined text; the prompt's phones, bos and eos count."""
# How text and audio become tokens. The other keys concern a corpus and its preprocessing.
_PREPROCESS_KEYS = ("phone_extractor", "language", "add_blank", "acoustic_token_extractor", "sample_rate")


def frame_limits(request: TokenizedRequest, settings: ValleSettings) -> tuple[int, int]:
    """The minimum and maximum number of new frames; a begin symbol counts as a frame."""
    return 1, FRAMES_PER_ID * len(request.ids) + int(not settings.prepend_bos)


def adapted_settings(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Of a reference `args.json` the settings of the model and of its tokens, and remarks for the log."""
    unknown = list(_unknown_keys(content, ValleExperiment))
    remarks = []
    if unknown:
        remarks.append(f"{len(unknown)} settings are unknown here and ignored: {', '.join(unknown)}")
    preprocess = _section(content, "preprocess")
    if preprocess.get("add_blank"):
        remarks.append("preprocess.add_blank is true: id 0 is inserted around and between phones")
    adapted = {
        "model": {key: value for key, value in _section(content, "model").items() if f"model.{key}" not in unknown},
        "preprocess": {key: preprocess[key] for key in _PREPROCESS_KEYS if key in preprocess},
        # A trained model does not depend on its corpus, whose name may be unknown here.
        "dataset": ["custom"],
        "dataset_path": {"custom": ""},
    }
    return adapted, remarks


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = content.get(name)
    return section if isinstance(section, Mapping) else {}


def _unknown_keys(content: Mapping[str, Any], schema: type[Section], prefix: str = "") -> Iterator[str]:
    """The dotted keys that the settings do not have."""
    for name, value in content.items():
        if prefix + name == "base_config":
            continue
        field = schema.model_fields.get(name)
        if field is None:
            yield prefix + name
        elif (
            isinstance(value, Mapping) and isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        ):
            yield from _unknown_keys(value, field.annotation, f"{prefix}{name}.")
