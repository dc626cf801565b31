"""Pushes models to the Hugging Face hub, and pulls them."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from utils.cli import Parser, find_experiment, find_path, run

DESCRIPTION = (
    "Push an experiment to the Hugging Face hub as USER/MODEL, with a model card, or pull a model from there into a "
    "folder. Log in with hf auth login, or set HF_TOKEN. Stages 3 to 5 take hub:USER/MODEL without a pull."
)
FLAGS_OF_PUSH = ("infer_expt_dir", "licence", "data", "voice", "metrics", "private", "set")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags, checked for combinations that do not fit."""
    parser = Parser(DESCRIPTION, prog="share.py")
    parser.add_argument("action", choices=("push", "pull"))
    parser.add_argument("model", metavar="USER/MODEL", help="name on the hub; pull also takes USER/MODEL@REVISION")
    parser.add_argument("--infer_expt_dir", metavar="DIR", help="push: the experiment; its newest checkpoint is pushed")
    parser.add_argument("--licence", metavar="ID", help="push: the hub's name of a licence, such as mit or cc-by-4.0")
    parser.add_argument("--data", metavar="TEXT", help="push: what the model was trained on, for the card")
    parser.add_argument(
        "--voice",
        action="append",
        default=[],
        metavar="NAME",
        help="push: a voice of the experiment to publish, which needs notes of consent and licence; may be repeated",
    )
    parser.add_argument(
        "--metrics", metavar="FILE", help="push: metrics.json of stage 4 (default <infer_expt_dir>/evaluation)"
    )
    parser.add_argument("--private", action="store_true", help="push: only you can see the model")
    parser.add_argument("--output_dir", metavar="DIR", help="pull: the new folder (default: MODEL)")
    flags = parser.parse(arguments)
    if flags.action == "pull":
        for name in FLAGS_OF_PUSH:
            if getattr(flags, name) != parser.get_default(name):
                parser.error(f"--{name} is for push")
        return flags
    if flags.output_dir is not None:
        parser.error("--output_dir is for pull")
    for name in ("infer_expt_dir", "licence"):
        if getattr(flags, name) is None:
            parser.error(f"--{name}: needed with push")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", flags.licence):
        parser.error(f"--licence: takes the hub's name of a licence, such as mit or cc-by-4.0, not {flags.licence!r}")
    return flags


def main(arguments: Sequence[str] | None) -> int:
    flags = parse(arguments)
    return push(flags) if flags.action == "push" else pull(flags)


def push(flags: argparse.Namespace) -> int:
    """Collect what the model needs in a temporary folder, and upload that folder alone."""
    # Import heavy libraries only after the flags are checked.
    from tempfile import TemporaryDirectory

    from evaluation.card import Measured, model_card
    from models.experiment import Experiment
    from synthesis.share import collect, languages_of, replaced_patterns
    from utils.checkpoint import load_weights, resolve_checkpoint
    from utils.errors import UserError
    from utils.hub import experiment_name, split_location, upload
    from utils.log import log, set_up_logging

    set_up_logging()
    model, revision = split_location(flags.model, "push")
    if revision is not None:
        raise UserError(f"push: {flags.model}: a push makes a new revision; leave @{revision} out")
    source = resolve_checkpoint(find_experiment(flags.infer_expt_dir, "--infer_expt_dir"), "--infer_expt_dir")
    experiment = Experiment.of(source)
    metrics = experiment.folder / "evaluation" / "metrics.json"
    if flags.metrics is not None:
        metrics = find_path(flags.metrics, "--metrics")
    measured = None
    if metrics.is_file():
        measured = Measured.read(metrics, experiment_name(experiment.folder), source.path.name)
        # Earlier releases did not record the checkpoint.
        if measured.checkpoint is None and metrics.stat().st_mtime < source.weights.stat().st_mtime:
            log.warning("%s is older than the checkpoint: run stage 4 again if it measured another one", metrics)
    else:
        log.warning("%s is missing: the card says that the model was not measured; stage 4 measures it", metrics)
    settings = experiment.settings(flags.set)
    with TemporaryDirectory(prefix="vallet-") as temporary:
        folder = Path(temporary) / "model"
        voices = collect(source, settings, folder, flags.voice)
        weights = load_weights(resolve_checkpoint(folder, "push"))
        num_weights = sum(weight.numel() for weight in weights.values())
        languages = languages_of(experiment, settings)
        card = model_card(model, settings, num_weights, flags.licence, languages, flags.data, voices, measured)
        (folder / "README.md").write_text(card, encoding="utf-8")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            log.info("%s, %.1f MB", path.relative_to(folder), path.stat().st_size / 1e6)
        # What this model does not have any more goes, such as a voice or a lexicon. Files of others stay.
        url = upload(folder, model, flags.private, replaced_patterns(), "push")
    log.info("%s is on the hub: %s", model, url)
    return 0


def pull(flags: argparse.Namespace) -> int:
    """Copy a model from the hub's cache, where it is downloaded to, into a new folder."""
    import shutil

    from utils.errors import UserError
    from utils.hub import download, split_location
    from utils.log import log, set_up_logging

    set_up_logging()
    model, _ = split_location(flags.model, "pull")
    folder = Path(flags.output_dir or model.split("/")[1]).absolute()
    if folder.exists():
        raise UserError(f"--output_dir: {folder} is there already; choose another folder")
    source = download(flags.model, "pull")
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        # The cache has links, of which the content is copied.
        shutil.copytree(source, temporary)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    log.info("%s is in %s", model, folder)
    return 0


if __name__ == "__main__":
    run(main)
