"""Which folder may import which, and that a wrong flag is reported before heavy libraries are imported."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

ALLOWED: dict[str, set[str]] = {
    "utils": set(),
    "modules": set(),
    "config": set(),
    "processors": {"utils", "config"},
    "models": {"modules", "config"},
    "synthesis": {"models", "modules", "processors", "utils", "config"},
    "training": {"models", "modules", "processors", "utils", "config"},
    "benchmarks": {"synthesis", "training", "models", "modules", "processors", "utils", "config"},
    "evaluation": {"synthesis", "models", "processors", "utils", "config"},
    "recordings": {"evaluation", "processors", "utils", "config"},
    "web": {"synthesis", "models", "modules", "processors", "utils", "config"},
    "vallet": {"evaluation", "synthesis", "models", "modules", "processors", "utils", "config"},
    "bins": {
        "benchmarks",
        "evaluation",
        "recordings",
        "web",
        "synthesis",
        "training",
        "models",
        "modules",
        "processors",
        "utils",
        "config",
    },
    "egs": {"evaluation", "synthesis", "models", "processors", "utils"},
}
"""For each folder, the other folders that it may import."""
EXCEPTIONS: dict[str, set[str]] = {
    "models.experiment": {"utils"},
    "training.samples": {"synthesis.synthesizer"},
    "training.run": {"synthesis.synthesizer"},
}
"""Further imports that single modules may have."""
ROOMS = {*ALLOWED, "tests"}
NEEDS = {"config": {"pydantic"}, "modules": {"torch"}}
"""For a folder, all that it may import beside the standard library."""
BINS = (
    *("build_corpus", "preprocess", "train", "inference", "convert", "average", "bench", "evaluate", "webui"),
    *("voices", "serve", "share"),
)
HEAVY = (
    "torch",
    "torchaudio",
    "lhotse",
    "pydantic",
    "numpy",
    "accelerate",
    "phonemizer",
    "soundfile",
    "gradio",
    "fastapi",
    "huggingface_hub",
    "uvicorn",
)


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(source: str, package: str) -> Iterator[str]:
    """The dotted name of everything that a module of `package` imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def forbidden(source: str, package: str, module: str = "") -> list[str]:
    """The imports of a module of `package` that are not allowed."""
    room = package.split(".")[0]
    allowed_of_room = ALLOWED[room] | EXCEPTIONS.get(f"{package}.{module}", set())
    wrong = []
    for name in imported(source, package):
        target = name.split(".")[0]
        if room in NEEDS:
            is_allowed = target in {room, *NEEDS[room]} or target in sys.stdlib_module_names
        elif target == room or target not in ROOMS:
            is_allowed = True
        else:
            is_allowed = any(f"{name}.".startswith(f"{allowed}.") for allowed in allowed_of_room)
        if not is_allowed:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("room", ALLOWED)
def test_folders_import_one_way(room: str) -> None:
    assert files(room)
    wrong = {
        str(path.relative_to(ROOT)): names
        for path in files(room)
        if (
            names := forbidden(
                path.read_text(encoding="utf-8"), ".".join(path.relative_to(ROOT).parent.parts), path.stem
            )
        )
    }
    assert wrong == {}


def test_every_package_is_listed() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"egs"} == ROOMS


@pytest.mark.parametrize(
    ("package", "source", "wrong"),
    [
        ("utils", "import config.schema", ["config.schema"]),
        ("utils", "import json, models.valle.ar as ar", ["models.valle.ar"]),
        ("utils", "from utils.errors import UserError", []),
        ("modules", "def f():\n    from utils import files", ["utils.files"]),
        ("modules", "from torch import nn", []),
        ("config", "from torch import nn", ["torch.nn"]),
        ("config", "from pydantic import Field", []),
        ("processors.codecs", "from ..models import valle", []),
        ("processors.codecs", "from ...models import valle", ["models.valle"]),
        ("processors", "from bins.train import main", ["bins.train.main"]),
        ("models.valle", "import processors", ["processors"]),
        ("models.valle", "from processors.manifest import Utterance", ["processors.manifest.Utterance"]),
        ("models.valle", "from modules import masks", []),
        ("models", "from utils.log import log", ["utils.log.log"]),
        ("models.experiment", "from utils.log import log", []),
        ("training", "from synthesis.synthesizer import Synthesizer", ["synthesis.synthesizer.Synthesizer"]),
        ("training.samples", "from synthesis.synthesizer import Synthesizer", []),
        ("training.samples", "from synthesis.synthesizers import A", ["synthesis.synthesizers.A"]),
        ("synthesis", "import training.data", ["training.data"]),
        ("modules", "import numpy", ["numpy"]),
        ("models.valle", "class A:\n    def f(self):\n        import processors.codecs", ["processors.codecs"]),
        ("bins", "from tests import conftest", ["tests.conftest"]),
        ("egs.tts.VALLE", "import training", ["training"]),
    ],
)
def test_the_check_finds_what_is_forbidden(package: str, source: str, wrong: list[str]) -> None:
    package, _, module = package.rpartition(".") if package in EXCEPTIONS else (package, "", "")
    assert forbidden(source, package, module) == wrong


@pytest.mark.parametrize("flags", ["", "--no_such_flag", "--help"], ids=["import", "unknown flag", "help"])
@pytest.mark.parametrize("name", BINS)
def test_nothing_heavy_is_imported_before_the_flags_are_checked(name: str, flags: str) -> None:
    lines = ["import sys", f"import bins.{name}"]
    if flags:
        status = 0 if flags == "--help" else 2
        lines += ["try:", f"    bins.{name}.main([{flags!r}])", "except SystemExit as ended:"]
        lines += [f"    assert (ended.code or 0) == {status}"]
    lines += [f"print('heavy:', *[name for name in {HEAVY} if name in sys.modules])"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy:"
