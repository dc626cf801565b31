"""Classes named by `package.module:Class`, as registries and settings have them."""

from importlib import import_module
from typing import Any


def import_class(path: str) -> type[Any]:
    """The class at `package.module:Class`; its module is imported now. Raises ValueError if there is none."""
    module_name, _, name = path.partition(":")
    is_path = name and all(part.isidentifier() for part in module_name.split("."))
    try:
        found = getattr(import_module(module_name), name, None) if is_path else None
    except ImportError as error:
        raise ValueError(f"{path} cannot be imported ({error})") from error
    if not isinstance(found, type):
        raise ValueError(f"{path} does not name a class")
    return found
