"""Stage 3's work: jobs to speech and rows of results."""

import json
import time
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from synthesis.synthesizer import Request, Speech, Synthesizer
from synthesis.test_lists import InvalidLine, ListItem
from utils.audio import write_audio
from utils.errors import UserError
from utils.files import written_aside
from utils.log import log, progress_bar
from utils.prompts import Prompt, prepare_prompt

RESULTS = "results.jsonl"
COPY_ENDING = "_copysyn"


def run_jobs(
    synthesizer: Synthesizer,
    jobs: Sequence[ListItem | InvalidLine],
    output_dir: Path,
    continual: bool,
    copysyn: bool,
    may_overwrite: bool = False,
) -> int:
    """Speak all jobs into `output_dir`, with a row for each in `results.jsonl`; returns how many failed.

    Texts are decoded `max_batch_size` together. With `copysyn` a prompt's way through the codec and back is written
    beside each output as `<name>_copysyn.wav`. Without `may_overwrite` it raises UserError where the folder holds the
    speech of other texts under the same names.
    """
    # A folder that cannot be made is an error before anything is spoken.
    output_dir.mkdir(parents=True, exist_ok=True)
    if not may_overwrite:
        _check_overwrites(output_dir, jobs, continual)
    rows: list[dict[str, Any]] = []
    size = synthesizer.settings.max_batch_size
    # Texts of similar length are decoded together: the longest decides how long all take.
    ordered = sorted(jobs, key=lambda job: len(job.text) if isinstance(job, ListItem) else 0)
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
    if len(rows) == 1 and "audio" in rows[0]:
        log.info("%s", output_dir / rows[0]["audio"])
    log.info("speech and %s are in %s", RESULTS, output_dir)
    return len(rows) - len(spoken)


def free_name(output_dir: Path, name: str) -> str:
    """`name`, or the first of `<name>_2`, `<name>_3` and so on, of which `output_dir` has no output yet."""
    taken = {row.get("name") for row in read_results(output_dir / RESULTS)}

    def is_free(one: str) -> bool:
        return one not in taken and not any((output_dir / f"{one}{end}.wav").exists() for end in ("", COPY_ENDING))

    return next(one for one in chain([name], (f"{name}_{number}" for number in count(2))) if is_free(one))


def _check_overwrites(output_dir: Path, jobs: Sequence[ListItem | InvalidLine], continual: bool) -> None:
    """A list may be spoken again into its folder; another list must not replace its speech."""
    rows = {row.get("name"): row for row in read_results(output_dir / RESULTS)}
    for job in jobs:
        row = rows.get(job.name, {})
        if isinstance(job, InvalidLine) or "audio" not in row:
            continue
        text = job.prompt_text if continual else job.text
        now = {"text": text, "prompt_text": job.prompt_text, "prompt_audio": str(job.prompt_audio)}
        if any(row.get(key) != value for key, value in now.items()):
            raise UserError(
                f"{output_dir}: {job.name} is there with another text or prompt ({row.get('text')!r}); "
                "choose another output folder, or remove this one"
            )


def _run_group(
    synthesizer: Synthesizer, group: Sequence[ListItem | InvalidLine], output_dir: Path, continual: bool, copysyn: bool
) -> list[dict[str, Any]]:
    """Speak a few jobs together; returns a row for each, with an `error` where it failed."""
    rate_hz = synthesizer.codec.sample_rate_hz
    ready: list[tuple[ListItem, Prompt]] = []
    rows: list[dict[str, Any]] = []
    for job in group:
        try:
            if isinstance(job, InvalidLine):
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
            write_audio(output_dir / f"{job.name}{COPY_ENDING}.wav", synthesizer.copy(prompt.audio), rate_hz)
        rows.append(_row(job, request, prompt, speech))
    return rows


def _row(job: ListItem, request: Request, prompt: Prompt, speech: Speech) -> dict[str, Any]:
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
