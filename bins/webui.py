"""Stage 5: a web page that synthesizes speech, and the HTTP API of serve.py beside it."""

from collections.abc import Sequence
from importlib.util import find_spec

from bins.serve import parse, serve_experiments
from utils.cli import run
from utils.errors import UserError

DESCRIPTION = "Stage 5: a web page and an HTTP API that synthesize texts in voices, with trained experiments."


def main(arguments: Sequence[str] | None) -> int:
    flags = parse(arguments, DESCRIPTION, "run.sh", 7860)
    for name in ("gradio", "prometheus_client"):
        if find_spec(name) is None:
            raise UserError(f"stage 5 needs {name}; install it with pip install -e '.[web]', or all with make install")
    return serve_experiments(flags, has_page=True)


if __name__ == "__main__":
    run(main)
