"""Trains SpeechRVQ, the learned codec, on the clips of JSON lines."""

from collections.abc import Sequence

from utils.cli import Parser, find_path, run
from utils.paths import ROOT

DESCRIPTION = "Train SpeechRVQ on JSON lines with audio and text. The same command resumes a stopped training."


def main(arguments: Sequence[str] | None) -> int:
    parser = Parser(DESCRIPTION)
    parser.add_argument("--config", "-c", required=True, metavar="FILE")
    parser.add_argument("--name", "-n", required=True, help="the training's folder is <train.log_dir>/NAME")
    flags = parser.parse(arguments)

    # Import heavy libraries only after the flags are checked.
    from config.codec_schema import CodecExperiment
    from training.codec.clips import load_clips
    from training.codec.trainer import CodecTrainer
    from utils.config import load_settings, resolve_path
    from utils.log import set_up_logging

    set_up_logging()
    experiment = load_settings(find_path(flags.config, "--config"), CodecExperiment, flags.set, root=ROOT)
    folder = resolve_path(experiment.train.log_dir, ROOT) / flags.name
    clips = load_clips(experiment.train, ROOT, folder / "clips.json")
    # Spread over the manifests, which name one speaker after another.
    held_out = set(range(0, len(clips), max(1, len(clips) // experiment.train.valid_clips)))
    CodecTrainer(
        experiment,
        [clip for i, clip in enumerate(clips) if i not in held_out],
        [clips[i] for i in sorted(held_out)],
        folder,
    ).train()
    return 0


if __name__ == "__main__":
    run(main)
