"""The registry behind `model_type`, which is a name in `MODELS`, or `package.module:Class` for your own model."""

from config.class_path import import_class
from models.contract import CodecLM

MODELS = {"VALLE": "models.valle.valle:VALLE"}


def model_class(model_type: str) -> type[CodecLM]:
    """The class of a model. Only that model's module is imported.

    Raises ValueError if there is no such class, or it is not a `CodecLM`.
    """
    found = import_class(MODELS.get(model_type, model_type))
    if not issubclass(found, CodecLM):
        raise ValueError(f"{model_type} is not a CodecLM (models/contract.py)")
    return found
