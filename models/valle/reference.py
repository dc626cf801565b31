"""Experiment folders of the reference recipe, as released models come: what their settings mean in ours."""

from collections.abc import Iterator, Mapping
from typing import Any

from config.schema import Section, ValleExperiment, ValleSettings
from models.contract import TokenizedRequest

FRAMES_PER_ID = 16
"""A generation ends at this many frames for each id of the text, the prompt's, bos and eos among them."""
# What text and audio went through before the model. All else there concerns a corpus and its training.
_PREPROCESS_KEYS = ("phone_extractor", "language", "add_blank", "acoustic_token_extractor", "sample_rate")


def frame_limits(request: TokenizedRequest, settings: ValleSettings) -> tuple[int, int]:
    """The least and the most frames of a generation; a begin symbol counts as a frame."""
    return 1, FRAMES_PER_ID * len(request.ids) + int(not settings.prepend_bos)


def adapted_settings(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings of a reference `args.json` that count here, and remarks for the log.

    What counts is the model, and how its tokens were made.
    """
    unknown = list(_unknown_keys(content, ValleExperiment))
    remarks = []
    if unknown:
        remarks.append(f"{len(unknown)} settings are unknown here and ignored: {', '.join(unknown)}")
    preprocess = _section(content, "preprocess")
    if preprocess.get("add_blank"):
        remarks.append("preprocess.add_blank is true: id 0 stands around and between phones")
    adapted = {
        "model": {key: value for key, value in _section(content, "model").items() if f"model.{key}" not in unknown},
        "preprocess": {key: preprocess[key] for key in _PREPROCESS_KEYS if key in preprocess},
        # Which corpus it was does not matter to a trained model, and its name need not be one of ours.
        "dataset": ["custom"],
        "dataset_path": {"custom": ""},
    }
    return adapted, remarks


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = content.get(name)
    return section if isinstance(section, Mapping) else {}


def _unknown_keys(content: Mapping[str, Any], schema: type[Section], prefix: str = "") -> Iterator[str]:
    """Dotted keys that the settings do not have."""
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
