"""Stage 3's work: what to say, in whose voice, and where the speech goes."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.valle.synthesizer import Request, Speech, Synthesizer
from processors.prompts import Prompt, prepare_prompt
from utils.audio import write_audio
from utils.errors import UserError
from utils.files import written_aside
from utils.log import log, progress_bar

RESULTS = "results.jsonl"
_FIELDS = "text|text_prompt|audio_prompt"
# File systems take 255; a line's number and what is put behind come to it.
_MAX_NAME_BYTES = 200


@dataclass(frozen=True)
class Job:
    """One text to say; `name` is the output's path below the output folder, without suffix.

    `reference_audio` is how the text should sound, where that is known; evaluation compares with it.
    """

    name: str
    text: str
    prompt_text: str
    prompt_audio: Path
    reference_audio: Path | None = None


@dataclass(frozen=True)
class BadLine:
    """A line of a list that cannot be spoken, and why."""

    name: str
    reason: str


def read_test_list(path: Path, find: Callable[[str], Path]) -> list[Job | BadLine]:
    """Jobs of a list with `text|text_prompt|audio_prompt` a line; `find` turns a written path into an existing one.

    A fourth field may name the reference audio. A line in the order `text_prompt|audio_prompt|text` is known by its
    second field being an existing audio file. Blank lines and lines that begin with # are passed over. Raises
    UserError when nothing is left.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    jobs = [
        _parse_line(line, number, find)
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#")
    ]
    if not jobs:
        raise UserError(f"{path}: no lines; each is {_FIELDS}")
    return jobs


def _parse_line(line: str, number: int, find: Callable[[str], Path]) -> Job | BadLine:
    fields = [field.strip() for field in line.split("|")]
    if len(fields) not in (3, 4):
        return BadLine(f"batch/{number}", f"line {number} has {len(fields)} fields, not the three of {_FIELDS}")
    (text, prompt_text, audio), reference = fields[:3], "".join(fields[3:])
    if not _is_file(audio, find) and _is_file(prompt_text, find):
        prompt_text, audio, text = fields[:3]
    try:
        prompt_audio = find(audio)
        reference_audio = find(reference) if reference else None
    except UserError as error:
        return BadLine(f"batch/{number}", f"line {number}: {error}")
    return Job(f"batch/{number}_{output_name(prompt_audio)}", text, prompt_text, prompt_audio, reference_audio)


def output_name(prompt_audio: Path) -> str:
    """The prompt's name, which outputs are called after, cut to what a file system takes."""
    return prompt_audio.stem.encode("utf-8", "replace")[:_MAX_NAME_BYTES].decode("utf-8", "ignore")


def _is_file(path: str, find: Callable[[str], Path]) -> bool:
    try:
        return bool(path) and find(path).is_file()
    except (UserError, OSError):
        return False


def run_jobs(
    synthesizer: Synthesizer, jobs: Sequence[Job | BadLine], output_dir: Path, continual: bool, copysyn: bool
) -> int:
    """Speak all jobs into `output_dir`, with a row for each in `results.jsonl`; returns how many failed.

    Texts are decoded `max_batch_size` together. With `copysyn` a prompt's way through the codec and back is
    written beside each output as `<name>_copysyn.wav`.
    """
    # A folder that cannot be made is told before anything is spoken.
    output_dir.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    size = synthesizer.settings.max_batch_size
    # Texts of similar length are decoded together: the longest decides how long all take.
    ordered = sorted(jobs, key=lambda job: len(job.text) if isinstance(job, Job) else 0)
    places = {job.name: place for place, job in enumerate(jobs)}
    started = time.perf_counter()
    with progress_bar(total=len(jobs), desc="speaking", unit="text") as bar:
        for first in range(0, len(jobs), size):
            group = ordered[first : first + size]
            rows += _run_group(synthesizer, group, output_dir, continual, copysyn)
            rows.sort(key=lambda row: places[row["name"]])
            _write_results(output_dir / RESULTS, rows)
            bar.update(len(group))
    spoken = [row for row in rows if "error" not in row]
    for row in rows:
        for warning in row.get("prompt", {}).get("warnings", ()):
            log.warning("%s: %s", row["name"], warning)
        if "error" in row:
            log.warning("%s: %s", row["name"], row["error"])
    seconds = sum(row["seconds"] for row in spoken)
    elapsed = time.perf_counter() - started
    log.info("%d of %d texts spoken: %.1f s of audio in %.1f s", len(spoken), len(rows), seconds, elapsed)
    log.info("speech and %s are in %s", RESULTS, output_dir)
    return len(rows) - len(spoken)


def _run_group(
    synthesizer: Synthesizer, group: Sequence[Job | BadLine], output_dir: Path, continual: bool, copysyn: bool
) -> list[dict[str, Any]]:
    """Speak a few jobs together; returns a row for each, with an `error` where it failed."""
    rate_hz = synthesizer.codec.sample_rate_hz
    ready: list[tuple[Job, Prompt]] = []
    rows: list[dict[str, Any]] = []
    for job in group:
        try:
            if isinstance(job, BadLine):
                raise UserError(job.reason)
            # A continuation needs the prompt's whole text, and of its audio the first seconds alone.
            ready.append((job, prepare_prompt(job.prompt_audio, job.prompt_text, rate_hz, may_be_long=continual)))
        except UserError as error:
            rows.append({"name": job.name, "error": str(error)})
    requests = [Request(prompt.text if continual else job.text, prompt.text, prompt.audio) for job, prompt in ready]
    speeches = synthesizer.speak(requests, continual)
    for (job, prompt), request, speech in zip(ready, requests, speeches, strict=True):
        if isinstance(speech, UserError):
            rows.append({"name": job.name, "error": str(speech)})
            continue
        # Speech that failed is written, too, to be listened to.
        write_audio(output_dir / f"{job.name}.wav", speech.audio, rate_hz)
        if copysyn:
            write_audio(output_dir / f"{job.name}_copysyn.wav", synthesizer.copy(prompt.audio), rate_hz)
        rows.append(_row(job, request, prompt, speech))
    return rows


def _row(job: Job, request: Request, prompt: Prompt, speech: Speech) -> dict[str, Any]:
    row = {
        "name": job.name,
        "audio": f"{job.name}.wav",
        "text": request.text,
        "prompt_text": job.prompt_text,
        "prompt_audio": str(job.prompt_audio),
        "prompt": prompt.to_row(),
        "seconds": round(speech.seconds, 3),
        "real_time_factor": round(speech.real_time_factor, 4),
        "ended": speech.ended,
        "tries": speech.num_tries,
    }
    return row if speech.failure is None else {**row, "error": speech.failure}


def _write_results(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows of this run replace those of the same name; what earlier runs wrote of other names stays."""
    names = {row["name"] for row in rows}
    kept = [row for row in read_results(path) if row.get("name") not in names]
    with written_aside(path) as aside:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in [*kept, *rows])
        aside.write_text("".join(lines), encoding="utf-8")


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows of a `results.jsonl`, none where it is not there. Raises UserError where it is damaged."""
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise UserError(f"{path}: damaged; remove it, or choose another folder") from error
