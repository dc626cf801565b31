"""The registry behind `model_type`, which is a name in `MODELS`, or `package.module:Class` for your own model."""

from importlib import import_module

from models.contract import CodecLM

MODELS = {"VALLE": "models.valle.valle:VALLE"}


def model_class(model_type: str) -> type[CodecLM]:
    """The class of a model. Only that model's module is imported.

    Raises ValueError if there is no such class, or it is not a `CodecLM`.
    """
    module_name, _, name = MODELS.get(model_type, model_type).partition(":")
    try:
        found = getattr(import_module(module_name), name, None) if name else None
    except ImportError as error:
        raise ValueError(f"{model_type} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, CodecLM)):
        raise ValueError(f"{model_type} names no model; it must be {', '.join(MODELS)}, or package.module:Class")
    return found
