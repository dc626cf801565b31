"""Writes the usual zero-shot TTS test lists of a LibriSpeech or LibriTTS test set (VALL-E, section 5.1)."""

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from processors.manifest import SourceUtterance
from utils.audio import read_duration_seconds
from utils.errors import UserError
from utils.files import atomic_write
from utils.log import log, progress_bar

TEXT_SECONDS = (4.0, 10.0)
PROMPT_SECONDS = 3.0
# Prompts are whole utterances, so that their texts are exact.
_PROMPT_RANGE_SECONDS = (2.0, 5.0)
LISTS = ("continuation.txt", "cross_sentence.txt")


def write_test_lists(rows: Sequence[SourceUtterance], folder: Path, seed: int = 0) -> list[Path]:
    """Write two test lists of the utterances of 4 to 10 s, each with its recording as the reference.

    `continuation.txt` is for --continual: the first 3 s of an utterance are the prompt for the rest of it.
    `cross_sentence.txt` prompts each text with another utterance of its speaker, drawn from the five of 2 to 5 s that
    are closest to 3 s. Utterances whose speaker has no such prompt are left out, and their number is logged.

    Raises UserError if no utterance fits.
    """
    seconds = _durations(rows)
    shortest, longest = TEXT_SECONDS
    tested = [row for row in rows if shortest <= seconds.get(row.id, 0) <= longest]
    if not tested:
        raise UserError(
            f"--build_test_lists: no utterance of {shortest:g} to {longest:g} s with a text in the test split"
        )
    # Candidates for prompts of each speaker, those closest to 3 s first.
    by_speaker: dict[str, list[SourceUtterance]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: abs(seconds.get(row.id, 0) - PROMPT_SECONDS)):
        if _PROMPT_RANGE_SECONDS[0] <= seconds.get(row.id, 0) <= _PROMPT_RANGE_SECONDS[1]:
            by_speaker[row.speaker].append(row)
    rng = random.Random(seed)
    # A continuation's prompt is cut from its own utterance by stage 3.
    continuation = [_line(row, row) for row in tested]
    cross = []
    for row in tested:
        prompts = [other for other in by_speaker[row.speaker] if other.id != row.id][:5]
        if prompts:
            cross.append(_line(row, rng.choice(prompts)))
    paths = []
    for name, lines in zip(LISTS, (continuation, cross), strict=True):
        with atomic_write(folder / name) as temporary:
            temporary.write_text("# text|text_prompt|audio_prompt|reference\n" + "".join(lines), encoding="utf-8")
        log.info("%s: %d lines", folder / name, len(lines))
        paths.append(folder / name)
    if len(cross) < len(tested):
        num_left_out = len(tested) - len(cross)
        log.info("%s leaves out %d utterances whose speaker has no prompt of about 3 s", LISTS[1], num_left_out)
    return paths


def _durations(rows: Sequence[SourceUtterance]) -> dict[str, float]:
    """Map ids to seconds. Leaves out utterances without text, and those that cannot be read."""
    seconds = {}
    with progress_bar(total=len(rows), desc="test lists", unit="utterance") as bar:
        for row in rows:
            bar.update()
            try:
                # A bar separates the fields of a list's line, so no text with one can stand there.
                if row.text is not None and "|" not in row.text:
                    seconds[row.id] = read_duration_seconds(Path(row.audio_path))
            except UserError as error:
                log.warning("%s", error)
    return seconds


def _line(row: SourceUtterance, prompt: SourceUtterance) -> str:
    return f"{row.text}|{prompt.text}|{prompt.audio_path}|{row.audio_path}\n"
