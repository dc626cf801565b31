"""The demo's results: checks of the speech, the table, the comparison of before and after, and the picture."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from matplotlib import pyplot
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from egs.tts.VALLE.demo_corpus import Line
from evaluation.measures import COLUMNS, Column, Ratio, interval
from evaluation.pictures import draw_spectrogram
from utils.errors import UserError

ROWS = ("recordings", "codec alone", "before", "after")
SHOWN = tuple(column for column in COLUMNS if column.key in ("wer", "cer", "sim_o", "mcd_db"))
SILENT_RMS = 0.003

System = Mapping[str, Any]
"""A system in the metrics.json of stage 4."""


def check_speech(folder: Path, names: Sequence[str]) -> None:
    """Print how many texts ended by themselves. Raises UserError if the audio of one is missing or silent."""
    for name in names:
        path = folder / f"{name}.wav"
        if not path.is_file():
            raise UserError(f"{path} is missing: no speech was written for this text; see {folder / 'results.jsonl'}")
        audio, _ = soundfile.read(path, dtype="float32")
        level = float(np.sqrt((audio**2).sum() / max(1, len(audio))))
        if level < SILENT_RMS:
            raise UserError(f"{path} is silent: root mean square {level:.4f} of full scale")
    rows = map(json.loads, (folder / "results.jsonl").read_text(encoding="utf-8").splitlines())
    num_failed = sum("error" in row for row in rows if row["name"] in names)
    if num_failed:
        where = folder / "results.jsonl"
        print(f"   the speech of {num_failed} of {len(names)} texts did not end by itself: see {where}")


def read_systems(path: Path) -> tuple[dict[str, System], dict[str, str]]:
    """The rows of the table from stage 4's metrics.json, and how to get the metrics that are missing."""
    content = json.loads(path.read_text(encoding="utf-8"))
    # Stage 4 writes recordings, codec, experiments and folders of audio in this order.
    recordings, codec, after, before = content["systems"].values()
    return dict(zip(ROWS, (recordings, codec, before, after), strict=True)), content["missing"]


def print_table(systems: Mapping[str, System], num_texts: int) -> None:
    """Print each metric's mean with its 95 % interval."""
    columns = [column for column in SHOWN if any(column.key in system["metrics"] for system in systems.values())]
    print(f"   {'':12s}{''.join(f'{column.title:>24s}' for column in columns)}")
    for name, system in systems.items():
        cells = []
        for column in columns:
            found = system["metrics"].get(column.key)
            mean, low, high = (
                (f"{found[key] * column.scale:.{column.digits}f}" for key in ("mean", "low", "high"))
                if found
                else ("-", "", "")
            )
            cells.append(f"{mean} [{low}, {high}]" if found else mean)
        print(f"   {name:12s}{''.join(f'{cell:>24s}' for cell in cells)}")
    print(f"   {num_texts} sentences; in brackets the 95 % intervals. SIM-o is the speaker similarity to the prompt")


def print_comparison(systems: Mapping[str, System], lines: Sequence[Line], normalize: Callable[[str], str]) -> None:
    """Print for each metric whether it is better after fine-tuning than before, sentence by sentence.

    `normalize` is the text normalization of WER: a sentence counts as often as it has words.
    """
    for column in SHOWN:
        if column.key == "cer":
            continue
        weights = {line.name: len(normalize(line.text).split()) if column.key == "wer" else 1 for line in lines}
        difference = paired_difference(systems["before"], systems["after"], column, weights)
        if difference is None:
            continue
        mean, low, high = difference
        is_better = mean < 0 if column.better == "lower" else mean > 0
        verdict = "better than" if is_better else "as good as" if mean == 0 else "worse than"
        may_be_chance = "; 0 is in the interval" if low <= 0 <= high else ""
        digits = column.digits
        print(
            f"   {column.title}: after is {verdict} before, by {mean:+.{digits}f} "
            f"(95 % interval {low:+.{digits}f} to {high:+.{digits}f}{may_be_chance})"
        )


def paired_difference(
    before: System, after: System, column: Column, weights: Mapping[str, int]
) -> tuple[float, float, float] | None:
    """Mean of after minus before over the sentences that have both, and its 95 % interval; None if there are none."""
    pairs = [
        Ratio(weight * column.scale * (after["utterances"][name][column.key] - row[column.key]), weight)
        for name, weight in weights.items()
        if column.key in (row := before["utterances"].get(name, {})) and column.key in after["utterances"].get(name, {})
    ]
    return interval(pairs) if pairs else None


def draw(path: Path, experiment: Path, clips: Mapping[str, Path], text: str) -> None:
    """Draw the losses of the fine-tuning, and below them the spectrogram of each clip of a text."""
    figure, axes = pyplot.subplot_mosaic(
        [["losses"] * len(clips), [f"clip {name}" for name in clips]], figsize=(12, 6), dpi=110
    )
    for name, points in losses(experiment).items():
        axes["losses"].plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 20 else None)
    axes["losses"].set(title=f"{experiment.name}: loss of the AR and the NAR together", xlabel="step")
    axes["losses"].legend()
    for name, audio_path in clips.items():
        audio, rate_hz = soundfile.read(audio_path, dtype="float32")
        draw_spectrogram(axes[f"clip {name}"], audio, rate_hz)
        axes[f"clip {name}"].set(xlabel="seconds", ylabel="mel band", title=name)
    figure.suptitle(text, fontsize=10)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def losses(experiment: Path) -> dict[str, list[tuple[int, float]]]:
    """Read (step, loss) pairs of training and validation from the experiment's TensorBoard files."""
    events = EventAccumulator(str(experiment / "log"), size_guidance={"scalars": 0}).Reload()
    known = set(events.Tags()["scalars"])
    names = {"training": "train/loss", "validation": "valid/loss"}
    return {
        name: [(event.step, event.value) for event in events.Scalars(tag)]
        for name, tag in names.items()
        if tag in known
    }
