"""How the programs in `bins/` parse flags and exit."""

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from utils.errors import UserError
from utils.hub import download, is_on_hub
from utils.paths import RECIPE_CONFIG, ROOT


class Parser(argparse.ArgumentParser):
    """An argument parser that takes full flag names only and reports an error in one line."""

    def __init__(self, description: str, prog: str = "run.sh") -> None:
        super().__init__(description=description, allow_abbrev=False, prog=prog)
        self.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            self.error(f"unknown flag {unknown[0]} in this stage{hint}")
        return parsed

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; --help lists the flags", file=sys.stderr)
        raise SystemExit(2)


def true_or_false(value: str) -> bool:
    """The `type` of a flag that takes true or false."""
    if value.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"takes true or false, not {value!r}")
    return value.lower() == "true"


def find_path(path: str, flag: str, beside: Path | None = None) -> Path:
    """Find a path of the command line: in the working directory, in `beside`, then in the repository root.

    `beside` is the folder of the list that contains the path. Raises UserError naming the flag if it is in none.
    """
    folders = [ROOT] if beside is None else [beside, ROOT]
    try:
        for candidate in (Path(path).expanduser(), *(folder / path for folder in folders)) if path else ():
            if candidate.exists():
                return candidate.absolute()
    except (OSError, RuntimeError, ValueError):
        pass  # Not a valid file name, or an unknown home folder.
    raise UserError(f"{flag}: no such file or folder: {path}")


def find_experiment(location: str, flag: str) -> Path:
    """The folder of an experiment: a path as in `find_path`, or `hub:user/model[@revision]`, which is downloaded once.

    Raises UserError naming the flag if there is none.
    """
    return download(location, flag) if is_on_hub(location) else find_path(location, flag)


def find_config(path: str | None) -> Path:
    """The config that `--config` names; without it the recipe's, or the defaults alone in an installed package."""
    if path is not None:
        return find_path(path, "--config")
    return RECIPE_CONFIG if RECIPE_CONFIG.is_file() else ROOT / "config" / "valle.json"


def run(program: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Run a program's main function and exit: a UserError or OSError is one line and status 1, an interrupt 130."""
    try:
        status = program(None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except OSError as error:
        # For example a read-only folder. Without a file name the message alone would not help: show the traceback.
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    raise SystemExit(status)
