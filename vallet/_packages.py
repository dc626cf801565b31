"""Reports modules of others that have the names of the packages that `vallet` consists of."""

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("config", "evaluation", "models", "modules", "processors", "synthesis", "utils")


def check_packages() -> None:
    """Raises ImportError naming the file or folder that Python would import instead of one of our packages."""
    root = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        try:
            spec = find_spec(name)
        except ValueError:  # A module that a program made itself.
            spec = None
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        if any(Path(folder).resolve() == root / name for folder in folders):
            continue
        found = (spec.origin or next(iter(folders), None)) if spec is not None else None
        if found is None:
            raise ImportError(f"vallet is incomplete: there is no package {name} in {root}; install it again")
        raise ImportError(
            f"{found} has the name of a package that vallet needs, {name}, and is found before it; rename it, or run "
            "Python from another folder"
        )
