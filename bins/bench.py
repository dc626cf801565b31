"""Benchmarks decoding, training, stage 1 and start-up against plain implementations and the machine's limits."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from utils.cli import Parser, run
from utils.paths import PRETRAINED, ROOT

DESCRIPTION = (
    "Measure each part: time, rate, memory, speedup over the plain implementation, ratio to the machine's limit, goal."
)
PARTS = ("decoding", "training", "streaming", "features", "codecs", "startup", "first_audio")


def main(arguments: Sequence[str] | None) -> int:
    parser = Parser(DESCRIPTION, prog="bench")
    parser.add_argument("--part", action="append", choices=PARTS, help="run this part only; may be repeated")
    parser.add_argument(
        "--full", action="store_true", help="all steps, layers and utterances instead of a sample: an hour on two cores"
    )
    parser.add_argument(
        "--expt_dir",
        metavar="DIR",
        help="trained experiment to compare precisions with (default: the demo's), and to serve (the pretrained pair)",
    )
    parser.add_argument(
        "--output", default="bench.json", metavar="FILE", help="JSON file to write (default %(default)s)"
    )
    flags = parser.parse(arguments)

    # Import heavy libraries only after the flags are checked.
    from benchmarks import agreement, codecs, decoding, features, first_audio, startup, streaming, training
    from benchmarks.measure import Row, machine, table
    from config.schema import ValleExperiment
    from utils.config import load_settings
    from utils.device import pick_device
    from utils.log import log, set_up_logging

    set_up_logging()
    # No benchmark reads a corpus.
    overrides = ['dataset=["custom"]', "dataset_path.custom=none", *flags.set]
    settings = load_settings(ROOT / "config" / "valle.json", ValleExperiment, overrides, root=ROOT)
    device = pick_device()
    experiment = Path(flags.expt_dir) if flags.expt_dir else ROOT / "ckpts" / "tts" / "demo"
    found: dict[str, list[Row]] = {}
    for part in flags.part or PARTS:
        log.info("benchmarking: %s", part)
        if part == "decoding":
            found[part] = decoding.rows(settings.model, device, flags.full) + agreement.rows(experiment)
        elif part == "training":
            found[part] = training.rows(settings, device, flags.full)
        elif part == "streaming":
            found[part] = streaming.rows(settings, flags.full)
        elif part == "features":
            found[part] = features.rows(settings.preprocess, device, flags.full)
        elif part == "codecs":
            found[part] = codecs.rows(device, flags.full)
        elif part == "startup":
            found[part] = startup.rows(settings, device)
        else:
            found[part] = first_audio.rows(Path(flags.expt_dir) if flags.expt_dir else PRETRAINED)
    description = machine(device)
    print(f"{description}\n\n{table([row for rows in found.values() for row in rows])}")
    content = {"machine": description, **{part: [asdict(row) for row in rows] for part, rows in found.items()}}
    Path(flags.output).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run(main)
