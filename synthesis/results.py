"""Stage 3: synthesizes a list of texts into audio files and `results.jsonl`."""

import json
import time
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

import torch
from torch import Tensor

from synthesis.long_texts import LongText, ResultRow, next_batch, synthesize_parts
from synthesis.subtitles import make_cues, write_subtitles
from synthesis.synthesizer import Synthesizer
from synthesis.test_lists import InvalidLine, ListItem
from synthesis.voices import load_prompt
from utils.audio import write_audio
from utils.errors import UserError
from utils.files import atomic_write
from utils.log import log, progress_bar

RESULTS = "results.jsonl"
COPY_ENDING = "_copysyn"
_MAX_SUSPECTS = 5


def synthesize_list(
    synthesizer: Synthesizer,
    items: Sequence[ListItem | InvalidLine],
    output_dir: Path,
    continual: bool,
    copysyn: bool,
    may_overwrite: bool = False,
    subtitles: str | None = None,
) -> int:
    """Synthesize all items into `output_dir`, with a row for each in `results.jsonl`; returns how many failed.

    Texts, and the parts of long ones, are decoded in batches of `max_batch_size`. With `copysyn`, the codec's
    reconstruction of a prompt is written beside each output as `<name>_copysyn.wav`. Without `may_overwrite`, raises
    UserError if the folder has the speech of other texts under the same names. `subtitles` is a format to write
    subtitles in, beside each output.
    """
    # Fail before any work if the folder cannot be made.
    output_dir.mkdir(parents=True, exist_ok=True)
    if not may_overwrite:
        _check_overwrites(output_dir, items, continual)
    rows: list[ResultRow] = []
    size = synthesizer.texts_per_batch
    # Texts of similar length share a batch, as the longest determines its time.
    ordered = sorted(items, key=lambda item: len(item.text) if isinstance(item, ListItem) else 0)
    positions = {item.name: position for position, item in enumerate(items)}
    started = time.perf_counter()
    with progress_bar(total=len(items), desc="synthesis", unit="text") as bar:
        for first in range(0, len(items), size):
            batch = ordered[first : first + size]
            of_batch = _synthesize_batch(synthesizer, batch, output_dir, continual, copysyn)
            if subtitles is not None:
                add_subtitles(of_batch, output_dir, subtitles)
            rows += of_batch
            # Written after each batch, so that an interrupted run leaves the rows of what it wrote.
            rows.sort(key=lambda row: positions[row["name"]])
            write_results(output_dir / RESULTS, rows)
            bar.update(len(batch))
    log_results(rows, output_dir, time.perf_counter() - started)
    return sum("error" in row for row in rows)


def suspects_line(suspects: Sequence[ResultRow]) -> str:
    """What may be wrong with the words of a text, in one line: the first few of its `suspects`."""
    reasons = {
        "skipped": "is skipped",
        "repeated": "is repeated",
        "tail": "is followed by something else",
        "prompt": "has some of the prompt's text before it",
    }
    shown = [f"{one['word']!r} {reasons[one['problem']]} ({one['time']:.2f} s)" for one in suspects[:_MAX_SUSPECTS]]
    more = len(suspects) - len(shown)
    return f"perhaps {', '.join(shown)}" + (f", and {more} more" if more else "")


def log_results(rows: Sequence[ResultRow], output_dir: Path, elapsed_seconds: float) -> None:
    """Log what went wrong, how many texts were synthesized, and where the speech is."""
    for row in rows:
        for warning in row.get("prompt", {}).get("warnings", ()):
            log.warning("%s: %s", row["name"], warning)
        if "error" in row:
            log.warning("%s: %s", row["name"], row["error"])
        if row.get("suspects"):
            log.warning("%s: %s", row["name"], suspects_line(row["suspects"]))
    good = [row for row in rows if "error" not in row]
    seconds = sum(row["seconds"] for row in good)
    log.info("%d of %d texts synthesized: %.1f s of audio in %.1f s", len(good), len(rows), seconds, elapsed_seconds)
    if len(rows) == 1 and "audio" in rows[0]:
        log.info("%s", output_dir / rows[0]["audio"])
    log.info("speech and %s are in %s", RESULTS, output_dir)


def free_name(output_dir: Path, name: str) -> str:
    """The first of `name`, `<name>_2`, `<name>_3` and so on that has no output in `output_dir`."""
    taken = {row.get("name") for row in read_results(output_dir / RESULTS)}

    def is_free(one: str) -> bool:
        return one not in taken and not any((output_dir / f"{one}{end}.wav").exists() for end in ("", COPY_ENDING))

    return next(one for one in chain([name], (f"{name}_{number}" for number in count(2))) if is_free(one))


def _check_overwrites(output_dir: Path, items: Sequence[ListItem | InvalidLine], continual: bool) -> None:
    """Raises UserError if a row of the folder has another text or prompt; the same list may run again."""
    rows = {row.get("name"): row for row in read_results(output_dir / RESULTS)}
    for item in items:
        row = rows.get(item.name, {})
        if isinstance(item, InvalidLine) or "audio" not in row:
            continue
        text = item.prompt_text if continual else item.text
        now = {"text": text, "prompt_text": item.prompt_text, "prompt_audio": str(item.prompt_audio)}
        if any(row.get(key) != value for key, value in now.items()):
            raise UserError(
                f"{output_dir}: {item.name} is there with another text or prompt ({row.get('text')!r}); "
                "choose another output folder, or remove this one"
            )


def _synthesize_batch(
    synthesizer: Synthesizer, batch: Sequence[ListItem | InvalidLine], output_dir: Path, continual: bool, copysyn: bool
) -> list[ResultRow]:
    """Synthesize a few items together and write their audio; returns a row for each, with an `error` if it failed."""
    rate_hz = synthesizer.codec.sample_rate_hz
    ready: list[tuple[ListItem, LongText]] = []
    rows: list[ResultRow] = []
    for item in batch:
        try:
            if isinstance(item, InvalidLine):
                raise UserError(item.reason)
            # A continuation needs the whole text of the prompt, but only the first seconds of its audio.
            prompt = load_prompt(synthesizer, item.prompt_audio, item.prompt_text, may_be_long=continual)
            languages = item.language, item.prompt_language
            ready.append((item, LongText(synthesizer, item.text, prompt, continual, *languages)))
        except UserError as error:
            place = item.place if isinstance(item, ListItem) else ""
            rows.append({"name": item.name, "error": f"{place}{error}"})
    texts = [text for _, text in ready]
    blocks: dict[LongText, list[Tensor]] = {text: [] for text in texts}
    parts: dict[LongText, list[ResultRow]] = {text: [] for text in texts}
    while turn := next_batch(texts, synthesizer.texts_per_batch):
        for text, block, part in synthesize_parts(synthesizer, turn, continual):
            blocks[text].append(block)
            parts[text].append(part)
    for item, text in ready:
        if text.error is not None:
            rows.append({"name": item.name, "error": f"{item.place}{text.error}"})
            continue
        # Failed speech is written, too, so that one can listen to it.
        write_audio(output_dir / f"{item.name}.wav", torch.cat(blocks[text]), rate_hz)
        if copysyn:
            write_audio(output_dir / f"{item.name}{COPY_ENDING}.wav", synthesizer.copy_prompt(text.prompt), rate_hz)
        rows.append(result_row(item, text, parts[text]))
    return rows


def add_subtitles(rows: Sequence[ResultRow], output_dir: Path, file_format: str) -> None:
    """Write `<name>.srt` or `<name>.vtt` for each row that has words; a row without them is a warning."""
    for row in rows:
        if "words" in row:
            path = output_dir / f"{row['name']}.{file_format}"
            write_subtitles(path, make_cues(row["text"], row["words"], row["language"]))
        elif "audio" in row:
            log.warning("%s: no subtitles, as the times of its words are not known", row["name"])


def result_row(item: ListItem, text: LongText, parts: Sequence[ResultRow]) -> ResultRow:
    """The row of a text whose parts are all done."""
    return {
        "name": item.name,
        "audio": f"{item.name}.wav",
        "text": text.text,
        "prompt_text": item.prompt_text,
        "prompt_audio": str(item.prompt_audio),
        "prompt": text.prompt.to_row(),
        **text.summary(parts),
    }


def write_results(path: Path, rows: Sequence[ResultRow]) -> None:
    """Add rows to a `results.jsonl`; they replace rows of the same name that earlier runs wrote."""
    names = {row["name"] for row in rows}
    kept = [row for row in read_results(path) if row.get("name") not in names]
    with atomic_write(path) as temporary:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in [*kept, *rows])
        temporary.write_text("".join(lines), encoding="utf-8")


def read_results(path: Path) -> list[ResultRow]:
    """The rows of a `results.jsonl`; none if it does not exist. Raises UserError if it is damaged."""
    if not path.is_file():
        return []
    try:
        # A text in a row may have other characters that Python takes for line ends.
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except ValueError as error:
        raise UserError(f"{path}: damaged; remove it, or choose another folder") from error
