"""The registry behind `model_type`: a name below, or `package.module:Class` of a model of your own."""

from importlib import import_module

from models.contract import CodecLM

MODELS = {"VALLE": "models.valle.valle:VALLE"}


def model_class(model_type: str) -> type[CodecLM]:
    """The class of a model; its module is imported now, and no other's.

    Raises ValueError where there is no such class, or it is no `CodecLM`.
    """
    module_name, _, name = MODELS.get(model_type, model_type).partition(":")
    try:
        found = getattr(import_module(module_name), name, None) if name else None
    except ImportError as error:
        raise ValueError(f"{model_type} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, CodecLM)):
        raise ValueError(f"{model_type} names no model; it must be {', '.join(MODELS)}, or package.module:Class")
    return found
