"""Writes `report.html`: one self-contained page with the table, audio players and spectrograms."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import soundfile

from evaluation.evaluate import GROUND_TRUTH, RESYNTHESIS, Evaluation, System
from evaluation.measures import COLUMNS, WIDE_RATE_HZ, Clip, Column
from evaluation.pictures import distributions_picture, spectrogram_picture
from evaluation.published import Published
from synthesis.results import suspects_line
from synthesis.test_lists import ListItem
from utils.files import atomic_write
from utils.log import progress_bar

_ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


def write_report(path: Path, evaluation: Evaluation, num_texts: int) -> None:
    """Write the page, with the audio of the `num_texts` worst texts."""
    measured = [row for system in evaluation.systems for row in system.measured.values()]
    columns = [column for column in COLUMNS if any(column.key in row.values for row in measured)]
    jobs = [job for job in evaluation.jobs if any(job.name in system.measured for system in evaluation.systems)]
    sortable = [
        column for column in columns if column.better and any(_badness(evaluation, job, column) for job in jobs)
    ]

    def worst_first(job: ListItem) -> list[tuple[bool, float]]:
        values = [_badness(evaluation, job, column) for column in sortable]
        # Texts without a value come last.
        return [(value is None, -(value or 0.0)) for value in values]

    jobs.sort(key=worst_first)
    shown = jobs[:num_texts]
    with progress_bar(total=len(shown), desc="report", unit="text") as bar:
        utterances = []
        for job in shown:
            utterances.append(_utterance(evaluation, job, columns, sortable))
            bar.update()
    values = {system.name: _values(system, columns) for system in evaluation.systems}
    # A metric with the same value everywhere has no distribution to draw.
    spread = [column for column in columns if len({v for row in values.values() for v in row.get(column.key, ())}) > 1]
    page = jinja2.Environment(autoescape=True).from_string(
        Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    )
    text = page.render(
        title=f"Evaluation: {', '.join(system.name for system in evaluation.systems if not _is_bound(system))}",
        num_texts=len(jobs),
        columns=columns,
        arrows=_ARROWS,
        rows=_rows(evaluation.systems, columns),
        published=_published(evaluation.published, columns),
        looked_up=evaluation.published.looked_up,
        recognizer=evaluation.recognizer,
        models=evaluation.models,
        missing=evaluation.missing,
        failures=[f"{s.name}, {name}: {reason}" for s in evaluation.systems for name, reason in s.failures.items()],
        distributions=_data("image/png", distributions_picture(spread, values)) if spread else None,
        sortable=sortable,
        utterances=utterances,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _values(system: System, columns: Sequence[Column]) -> dict[str, list[float]]:
    return {
        column.key: [row.values[column.key].mean for row in system.measured.values() if column.key in row.values]
        for column in columns
        if column.key != "real_time_factor"  # Texts of a batch share one value.
    }


def _is_bound(system: System) -> bool:
    """Whether this row is a bound to compare systems with, and not a system itself."""
    return system.name == GROUND_TRUTH or system.name.startswith(RESYNTHESIS)


def _badness(evaluation: Evaluation, job: ListItem, column: Column) -> float | None:
    """Mean of one metric over the systems' clips of a text, negated if higher is better; None if not measured."""
    values = [
        system.measured[job.name].values[column.key].mean
        for system in evaluation.systems
        if job.name in system.measured and column.key in system.measured[job.name].values
        if not _is_bound(system) or all(map(_is_bound, evaluation.systems))
    ]
    return float(np.mean(values)) * (1 if column.better == "lower" else -1) if values else None


def _rows(systems: Sequence[System], columns: Sequence[Column]) -> list[dict[str, Any]]:
    sums = {system.name: system.sums() for system in systems}
    best = {}
    for column in columns:
        means = [sums[s.name][column.key][0] for s in systems if column.key in sums[s.name] and not _is_bound(s)]
        if column.better and len(means) > 1:
            best[column.key] = min(means) if column.better == "lower" else max(means)
    rows = []
    for system in systems:
        cells: list[dict[str, Any] | None] = []
        for column in columns:
            found = sums[system.name].get(column.key)
            if found is None:
                cells.append(None)
                continue
            mean, low, high = (f"{value * column.scale:.{column.digits}f}" for value in found)
            is_best = not _is_bound(system) and best.get(column.key) == found[0]
            cells.append({"mean": mean, "low": low, "high": high, "is_best": is_best})
        rows.append({"name": system.name, "num": len(system.measured), "cells": cells})
    return rows


def _published(published: Published, columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Rows of published results, with cells for the columns that are measured, too."""
    rows = []
    for row in published.rows:
        cells = [
            # With as many digits as were published.
            {"mean": f"{row.values[column.key] * column.scale:.4g}", "by": row.models[column.key]}
            if column.key in row.values
            else None
            for column in columns
        ]
        if any(cells):
            rows.append({"name": row.system, "cells": cells, "source": row.source, "url": row.url, "note": row.note})
    return rows


def _utterance(
    evaluation: Evaluation, job: ListItem, columns: Sequence[Column], sortable: Sequence[Column]
) -> dict[str, Any]:
    target = evaluation.targets[job.name]
    clips = [_clip("prompt", target.prompt, None, "")]
    for system in evaluation.systems:
        row = system.measured.get(job.name)
        if row is not None:
            numbers = [
                f"{column.title} {row.values[column.key].mean * column.scale:.{column.digits}f}"
                for column in columns
                if column.key in row.values
            ]
            transcript = row.transcript if "wer" in row.values else None
            suspects = system.results.get(job.name, {}).get("suspects")
            warning = suspects_line(suspects) if suspects else ""
            clips.append(_clip(system.name, row.clip, transcript, ", ".join(numbers), warning))
    badness = {column.key: _badness(evaluation, job, column) for column in sortable}
    return {"name": job.name, "text": target.text, "clips": clips, "badness": badness}


def _clip(title: str, clip: Clip, transcript: str | None, numbers: str, warning: str = "") -> dict[str, Any]:
    audio = clip.read(WIDE_RATE_HZ)
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, WIDE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return {
        "title": title,
        "audio": _data("audio/flac", buffer.getvalue()),
        "picture": _data("image/png", spectrogram_picture(audio, WIDE_RATE_HZ)),
        "transcript": transcript,
        "numbers": numbers,
        "warning": warning,
    }


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
