"""Stage 4: measures systems on a test list, next to the recordings and their codec resynthesis."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain, count
from pathlib import Path
from typing import Any

from evaluation.measures import COLUMNS, Clip, Measures, Ratio, Target, interval
from evaluation.published import Published
from synthesis.results import COPY_ENDING, RESULTS, read_results, synthesize_list
from synthesis.synthesizer import Synthesizer
from synthesis.test_lists import InvalidLine, ListItem
from utils.audio import read_audio, write_audio
from utils.checkpoint import Checkpoint, experiment_of
from utils.errors import UserError
from utils.files import write_json
from utils.hub import experiment_name
from utils.log import log, progress_bar

GROUND_TRUTH, RESYNTHESIS = "ground truth", "codec resynthesis"


@dataclass(frozen=True)
class MeasuredClip:
    """A system's clip with its metrics and the recognizer's transcript."""

    clip: Clip
    values: dict[str, Ratio]
    transcript: str


@dataclass
class System:
    """A row of the table. All dictionaries are by the name of a list item.

    `results` holds the rows of stage 3's results.jsonl, `prompt_copies` the prompts after the system's codec.
    `checkpoint` is the name of the checkpoint's folder, None for systems that are audio alone.
    """

    name: str
    clips: dict[str, Clip]
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    prompt_copies: dict[str, Clip] = field(default_factory=dict)
    measured: dict[str, MeasuredClip] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    checkpoint: str | None = None

    def sums(self) -> dict[str, tuple[float, float, float]]:
        """Mean and confidence interval of each metric that the system has."""
        values = {
            column.key: [row.values[column.key] for row in self.measured.values() if column.key in row.values]
            for column in COLUMNS
        }
        # Texts without any audio count as failed, too.
        values["failed"] += [Ratio(1.0) for name in self.failures if values["failed"] and name not in self.measured]
        return {key: interval(of_metric) for key, of_metric in values.items() if of_metric}


@dataclass(frozen=True)
class Evaluation:
    """The content of the report and of `metrics.json`. `missing` maps metrics to how to get them.

    `recognizer` holds the recognizer's `name`, its `backend` (the package that runs it) and that package's `version`.
    `models` says what else measured: the normalizer, the speaker model and UTMOS, by their names.
    """

    jobs: list[ListItem]
    targets: dict[str, Target]
    systems: list[System]
    missing: dict[str, str]
    recognizer: dict[str, str] | None
    models: dict[str, dict[str, str]]
    published: Published

    @property
    def speaker_model(self) -> str | None:
        return self.models.get("speaker_model", {}).get("name")


def gather(
    lines: Sequence[ListItem | InvalidLine],
    voices: Iterable[tuple[Synthesizer, Checkpoint]],
    audio_folders: Sequence[Path],
    output: Path,
    continual: bool,
) -> tuple[list[System], float]:
    """Synthesize and collect the audio of all systems; also return how many seconds of a continuation are the prompt.

    Experiments write their audio below `output`. The recordings come first, and the resynthesis by a codec before the
    first system that uses it. Systems without any audio or failure are left out.
    """
    jobs = [line for line in lines if isinstance(line, ListItem)]
    recordings = {job.name: Clip(job.reference_audio) for job in jobs if job.reference_audio}
    systems, codecs, prompt_seconds = [System(GROUND_TRUTH, recordings)], set(), 0.0
    for synthesizer, checkpoint in voices:
        if continual:
            prompt_seconds = synthesizer.settings.continual_prompt_seconds
        name = _unique(experiment_name(experiment_of(checkpoint)), systems)
        codec = synthesizer.codec.fingerprint()
        if codec not in codecs:
            systems.append(resynthesize(synthesizer, jobs, output / f"{name}_codec", _unique(RESYNTHESIS, systems)))
            codecs.add(codec)
        # The folder may hold the audio of an earlier evaluation with another list.
        synthesize_list(synthesizer, lines, output / name, continual, copysyn=True, may_overwrite=True)
        system = read_system(name, output / name, lines)
        system.checkpoint = checkpoint.path.name
        systems.append(system)
    systems += [read_system(_unique(folder.name, systems), folder, lines) for folder in audio_folders]
    return [system for system in systems if system.clips or system.failures], prompt_seconds


def _unique(name: str, systems: Sequence[System]) -> str:
    names = {system.name for system in systems}
    others = (f"{name} {number}" for number in count(2))
    return next(other for other in chain([name], others) if other not in names)


def read_system(name: str, folder: Path, jobs: Sequence[ListItem | InvalidLine]) -> System:
    """Read the output of stage 3 from `folder`. Raises UserError if there is none."""
    path = folder / RESULTS
    if not path.is_file():
        raise UserError(f"--audio_dir: {path} is missing; give a folder that stage 3 wrote with this test list")
    results = {row["name"]: row for row in read_results(path) if "name" in row}
    system = System(name, {}, results)
    for job in jobs:
        audio, copy = folder / f"{job.name}.wav", folder / f"{job.name}{COPY_ENDING}.wav"
        row = results.get(job.name, {"error": f"{path}: has no {job.name}; run stage 3 with this list first"})
        has_audio = "audio" in row and audio.is_file()
        if "error" in row or not has_audio:
            system.failures[job.name] = row.get("error", f"{audio}: no such audio file")
        # Failed audio is measured, too: without it the system's means would look better.
        if has_audio:
            system.clips[job.name] = Clip(audio)
            if copy.is_file():
                system.prompt_copies[job.name] = Clip(copy)
    return system


def resynthesize(synthesizer: Synthesizer, jobs: Sequence[ListItem], folder: Path, name: str) -> System:
    """Encode and decode the references with the codec: an upper bound for systems that use it."""
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


def evaluate(
    lines: Sequence[ListItem | InvalidLine],
    systems: Sequence[System],
    measures: Measures,
    missing: dict[str, str],
    prompt_seconds: float,
    published: Published,
) -> Evaluation:
    """Measure all clips of all systems. `prompt_seconds` is not 0 for continuations: so much of each is the prompt."""
    missing = {**missing, **published.why_not}
    jobs = [line for line in lines if isinstance(line, ListItem)]
    if not any(job.reference_audio for job in jobs):
        missing = {**missing, "MCD, F0 and duration": "name the reference audio in a fourth field of the list's lines"}
    copies = next((system.prompt_copies for system in systems if system.prompt_copies), {})
    targets = {}
    with progress_bar(total=sum(len(system.clips) for system in systems), desc="measuring", unit="clip") as bar:
        # Text by text, so that the features of a reference are computed once for all systems.
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
            why = f"normalization leaves no word of {', '.join(wordless)}"
            missing = {**missing, f"WER and CER of {len(wordless)} of {len(targets)} texts": why}
    recognizer = None
    if measures.recognizer is not None:
        backend = measures.recognizer.backend
        recognizer = {"name": measures.recognizer.name, "backend": backend, "version": version(backend)}
    models = {"normalizer": measures.normalizer.describe()} if recognizer is not None else {}
    for name, model in (("speaker_model", measures.embedder), ("utmos", measures.utmos)):
        if model is not None:
            models[name] = {"name": model.name, "kind": model.kind}
    return Evaluation(jobs, targets, list(systems), missing, recognizer, models, published)


def _target(system: System, job: ListItem, copy: Clip | None, prompt_seconds: float) -> Target:
    kept = prompt_seconds or None
    # A recording is not compared with itself.
    has_reference = job.reference_audio is not None and system.name != GROUND_TRUTH
    return Target(
        text=job.prompt_text if prompt_seconds else job.text,
        # A voice has no recording: what its codec makes of it counts.
        prompt=Clip(copy.path if copy and job.has_voice else job.prompt_audio, duration_seconds=kept),
        prompt_copy=Clip(copy.path, duration_seconds=kept) if copy else None,
        reference=Clip(job.reference_audio) if job.reference_audio and has_reference else None,
        prompt_seconds=prompt_seconds,
    )


def _measure(system: System, job: ListItem, target: Target, measures: Measures) -> None:
    clip = system.clips[job.name]
    try:
        values, transcript = measures.measure(clip, target)
    except UserError as error:
        system.failures[job.name] = str(error)
        return
    row = system.results.get(job.name, {})
    if "real_time_factor" in row:
        values["real_time_factor"] = Ratio(row["real_time_factor"])
    if "ended" in row:
        values["failed"] = Ratio(float(row["ended"] != "eos"))
    if "words" in row:
        values["suspects"] = Ratio(len(row["suspects"]), max(1, len(row["words"])))
    system.measured[job.name] = MeasuredClip(clip, values, transcript)


def write_metrics(path: Path, evaluation: Evaluation) -> None:
    """Write `metrics.json`: means with their intervals, the values of each utterance, and the models that measured."""
    systems = {
        system.name: {
            "metrics": {
                key: {"mean": mean, "low": low, "high": high} for key, (mean, low, high) in system.sums().items()
            },
            "checkpoint": system.checkpoint,
            "num_utterances": len(system.measured),
            "failures": system.failures,
            "utterances": {
                name: {
                    **{key: value.mean for key, value in row.values.items()},
                    "audio": str(row.clip.path),
                    "heard": row.transcript,
                    "suspect_words": system.results.get(name, {}).get("suspects", []),
                }
                for name, row in system.measured.items()
            },
        }
        for system in evaluation.systems
    }
    models = {"recognizer": evaluation.recognizer, "speaker_model": evaluation.speaker_model}
    published = evaluation.published
    results = [
        {
            "system": row.system,
            "metrics": {key: {"mean": value, "by": row.models[key]} for key, value in row.values.items()},
            "source": row.source,
            "url": row.url,
            "note": row.note,
        }
        for row in published.rows
    ]
    known = {"list": published.name, "looked_up": published.looked_up, "results": results}
    content = {
        "systems": systems,
        "published": known,
        **models,
        "models": evaluation.models,
        "missing": evaluation.missing,
    }
    write_json(path, content, indent=1)


def log_table(evaluation: Evaluation) -> None:
    """Log the table, one line per system and published result, then what is missing and what failed."""
    means = [(s.name, {key: mean for key, (mean, _, _) in s.sums().items()}) for s in evaluation.systems]
    columns = [column for column in COLUMNS if any(column.key in row for _, row in means)]
    means += [(f"published: {row.system}", dict(row.values)) for row in evaluation.published.rows]
    width = max(len(name) for name, _ in means)
    log.info("%s  %s", " " * width, "  ".join(f"{column.title:>12s}" for column in columns))
    for name, row in means:
        cells = [
            f"{row[column.key] * column.scale:12.{column.digits}f}" if column.key in row else " " * 11 + "-"
            for column in columns
        ]
        log.info("%s  %s", name.ljust(width), "  ".join(cells))
    for metric, how in evaluation.missing.items():
        log.warning("%s is missing: %s", metric, how)
    for system in evaluation.systems:
        for name, reason in system.failures.items():
            log.warning("%s, %s: %s", system.name, name, reason)
