"""The registry behind `model_type`: a name below, or `package.module:Class` of a model of your own."""

from config.class_path import import_class
from models.contract import CodecLM

MODELS = {"VALLE": "models.valle.valle:VALLE"}


def model_class(model_type: str) -> type[CodecLM]:
    """The class of a model; its module is imported now, and no other's.

    Raises ValueError where there is no such class, or it is no `CodecLM`.
    """
    found = import_class(MODELS.get(model_type, model_type))
    if not issubclass(found, CodecLM):
        raise ValueError(f"{model_type} is not a CodecLM (models/contract.py)")
    return found
