"""Stage 4's work: what systems say of a test list, measured beside the recordings and what the codec keeps of them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from evaluation.measures import COLUMNS, Clip, Measures, Target, Value, interval
from models.experiment import Experiment
from synthesis.results import COPY_ENDING, RESULTS, read_results, synthesize_list
from synthesis.synthesizer import Synthesizer
from synthesis.test_lists import InvalidLine, ListItem
from utils.audio import read_audio, write_audio
from utils.errors import UserError
from utils.files import written_aside
from utils.log import log, progress_bar

GROUND_TRUTH, RESYNTHESIS = "ground truth", "codec resynthesis"


@dataclass(frozen=True)
class MeasuredClip:
    """A clip of a system, what was measured of it, and what was heard."""

    clip: Clip
    values: dict[str, Value]
    heard: str


@dataclass
class System:
    """A row of the table: each job's audio, what stage 3 told of it, and the prompt as the system's codec keeps it."""

    name: str
    clips: dict[str, Clip]
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    prompt_copies: dict[str, Clip] = field(default_factory=dict)
    measured: dict[str, MeasuredClip] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def sums(self) -> dict[str, tuple[float, float, float]]:
        """Mean and confidence interval of every metric that the system has."""
        found = {
            column.key: [row.values[column.key] for row in self.measured.values() if column.key in row.values]
            for column in COLUMNS
        }
        # A text that gave no audio at all has failed, too.
        found["failed"] += [Value(1.0) for name in self.failures if found["failed"] and name not in self.measured]
        return {key: interval(values) for key, values in found.items() if values}


@dataclass(frozen=True)
class Evaluation:
    """All that the report and `metrics.json` tell.

    `missing` says of a metric how to get it, and `heard_by` which recognizer heard the words.
    """

    jobs: list[ListItem]
    targets: dict[str, Target]
    systems: list[System]
    missing: dict[str, str]
    heard_by: str | None


def gather(
    lines: Sequence[ListItem | InvalidLine],
    voices: Iterable[tuple[Synthesizer, Experiment]],
    audio_folders: Sequence[Path],
    output: Path,
    continual: bool,
) -> tuple[list[System], float]:
    """Every row of the table with its audio, and how many seconds of a continuation are the prompt.

    Experiments speak into `output`. The first row are the recordings; before the first system of each codec comes
    what that codec keeps of them.
    """
    jobs = [line for line in lines if isinstance(line, ListItem)]
    systems, codecs, prompt_seconds = [recordings(jobs)], set(), 0.0
    for synthesizer, experiment in voices:
        if continual:
            prompt_seconds = synthesizer.settings.continual_prompt_seconds
        name = _unique(experiment.folder.name, systems)
        codec = synthesizer.codec.fingerprint()
        if codec not in codecs:
            systems.append(resynthesize(synthesizer, jobs, output / f"{name}_codec", _unique(RESYNTHESIS, systems)))
            codecs.add(codec)
        # An evaluation is made anew each time, with whatever list.
        synthesize_list(synthesizer, lines, output / name, continual, copysyn=True, may_overwrite=True)
        systems.append(read_system(name, output / name, lines))
    systems += [read_system(_unique(folder.name, systems), folder, lines) for folder in audio_folders]
    return [system for system in systems if system.clips or system.failures], prompt_seconds


def _unique(name: str, systems: Sequence[System]) -> str:
    names = {system.name for system in systems}
    others = (f"{name} {number}" for number in count(2))
    return next(other for other in chain([name], others) if other not in names)


def read_system(name: str, folder: Path, jobs: Sequence[ListItem | InvalidLine]) -> System:
    """What stage 3 wrote into `folder`. Raises UserError where it wrote nothing."""
    path = folder / RESULTS
    if not path.is_file():
        raise UserError(f"--audio_dir: {path} is missing; give a folder that stage 3 wrote with this test list")
    told = {row["name"]: row for row in read_results(path) if "name" in row}
    system = System(name, {}, told)
    for job in jobs:
        audio, copy = folder / f"{job.name}.wav", folder / f"{job.name}{COPY_ENDING}.wav"
        row = told.get(job.name, {"error": f"{path}: has no {job.name}; speak the list with stage 3 first"})
        has_audio = "audio" in row and audio.is_file()
        if "error" in row or not has_audio:
            system.failures[job.name] = row.get("error", f"{audio}: no such audio file")
        # Speech that failed is measured as well: what is left out would make the rest look better.
        if has_audio:
            system.clips[job.name] = Clip(audio)
            if copy.is_file():
                system.prompt_copies[job.name] = Clip(copy)
    return system


def resynthesize(synthesizer: Synthesizer, jobs: Sequence[ListItem], folder: Path, name: str) -> System:
    """The references through the codec and back: the best that a system with this codec could sound."""
    system = System(name, {})
    for job in jobs:
        if job.reference_audio is not None:
            path = folder / f"{job.name}.wav"
            rate_hz = synthesizer.codec.sample_rate_hz
            try:
                write_audio(path, synthesizer.copy(read_audio(job.reference_audio, rate_hz)), rate_hz)
            except UserError as error:
                system.failures[job.name] = str(error)
            else:
                system.clips[job.name] = Clip(path)
    return system


def recordings(jobs: Sequence[ListItem]) -> System:
    """The references as they are."""
    return System(GROUND_TRUTH, {job.name: Clip(job.reference_audio) for job in jobs if job.reference_audio})


def evaluate(
    lines: Sequence[ListItem | InvalidLine],
    systems: Sequence[System],
    measures: Measures,
    missing: dict[str, str],
    prompt_seconds: float,
) -> Evaluation:
    """Measure all clips of all systems; of continuations, `prompt_seconds` of each are the prompt."""
    jobs = [line for line in lines if isinstance(line, ListItem)]
    if not any(job.reference_audio for job in jobs):
        missing = {**missing, "MCD, F0 and duration": "name the reference audio in a fourth field of the list's lines"}
    copies = next((system.prompt_copies for system in systems if system.prompt_copies), {})
    targets = {}
    with progress_bar(total=sum(len(system.clips) for system in systems), desc="measuring", unit="clip") as bar:
        # Text by text, as all systems' clips of one are compared with the same recording.
        for job in jobs:
            for system in systems:
                if job.name in system.clips:
                    copy = system.prompt_copies.get(job.name, copies.get(job.name))
                    targets[job.name] = _target(system, job, copy, prompt_seconds)
                    _measure(system, job, targets[job.name], measures)
                    bar.update()
    if measures.recognizer is not None:
        wordless = [name for name, target in targets.items() if not measures.has_words(target.text)]
        if wordless:
            why = f"normalisation leaves no word of {', '.join(wordless)}"
            missing = {**missing, f"word error rate of {len(wordless)} of {len(targets)} texts": why}
    heard_by = measures.recognizer.name if measures.recognizer else None
    return Evaluation(jobs, targets, list(systems), missing, heard_by)


def _target(system: System, job: ListItem, copy: Clip | None, prompt_seconds: float) -> Target:
    kept = prompt_seconds or None
    # A recording is not compared with itself.
    has_reference = job.reference_audio is not None and system.name != GROUND_TRUTH
    return Target(
        text=job.prompt_text if prompt_seconds else job.text,
        prompt=Clip(job.prompt_audio, duration_seconds=kept),
        prompt_copy=Clip(copy.path, duration_seconds=kept) if copy else None,
        reference=Clip(job.reference_audio) if job.reference_audio and has_reference else None,
        prompt_seconds=prompt_seconds,
    )


def _measure(system: System, job: ListItem, target: Target, measures: Measures) -> None:
    clip = system.clips[job.name]
    try:
        values, heard = measures.measure(clip, target)
    except UserError as error:
        system.failures[job.name] = str(error)
        return
    told = system.told.get(job.name, {})
    if "real_time_factor" in told:
        values["real_time_factor"] = Value(told["real_time_factor"])
    if "ended" in told:
        values["failed"] = Value(float(told["ended"] != "eos"))
    system.measured[job.name] = MeasuredClip(clip, values, heard)


def write_metrics(path: Path, evaluation: Evaluation) -> None:
    """`metrics.json`: sums with their intervals, and every utterance's values."""
    systems = {
        system.name: {
            "metrics": {
                key: {"mean": mean, "low": low, "high": high} for key, (mean, low, high) in system.sums().items()
            },
            "num_utterances": len(system.measured),
            "failures": system.failures,
            "utterances": {
                name: {
                    **{key: value.mean for key, value in row.values.items()},
                    "audio": str(row.clip.path),
                    "heard": row.heard,
                }
                for name, row in system.measured.items()
            },
        }
        for system in evaluation.systems
    }
    content = {"systems": systems, "missing": evaluation.missing}
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def log_table(evaluation: Evaluation) -> None:
    """The table on the screen: a line a system, and what is missing."""
    sums = {system.name: system.sums() for system in evaluation.systems}
    columns = [column for column in COLUMNS if any(column.key in row for row in sums.values())]
    width = max(len(name) for name in sums)
    log.info("%s  %s", " " * width, "  ".join(f"{column.title:>12s}" for column in columns))
    for name, row in sums.items():
        cells = [
            f"{row[column.key][0] * column.scale:12.{column.digits}f}" if column.key in row else " " * 11 + "-"
            for column in columns
        ]
        log.info("%s  %s", name.ljust(width), "  ".join(cells))
    for metric, how in evaluation.missing.items():
        log.warning("%s is missing: %s", metric, how)
    for system in evaluation.systems:
        for name, reason in system.failures.items():
            log.warning("%s, %s: %s", system.name, name, reason)
