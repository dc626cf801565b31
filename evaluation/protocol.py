"""Writes the usual zero-shot TTS test lists of LibriSpeech's, LibriTTS's and VCTK's speakers.

The rules are those of VALL-E (arXiv 2301.02111, section 5) and VALL-E 2 (arXiv 2406.05370, section 4).
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from processors.manifest import SourceUtterance
from utils.audio import read_duration_seconds
from utils.errors import UserError
from utils.files import atomic_write
from utils.log import log, progress_bar

TEXT_SECONDS = (4.0, 10.0)
PROMPT_SECONDS = 3.0
VCTK_PROMPT_SECONDS = (3, 5, 10)
# Prompts are whole utterances, so that their texts are exact.
_PROMPT_RANGE_SECONDS = (2.0, 5.0)
LISTS = ("continuation", "cross_sentence", "previous_utterance")
HEADING = "# list: "
"""Begins the first line of a list, which names it and says how many texts it has."""


def write_test_lists(rows: Sequence[SourceUtterance], folder: Path, name: str, seed: int = 0) -> list[Path]:
    """Write three test lists of the utterances of 4 to 10 s, each with its recording as the reference.

    `continuation.txt` is for --continual: the first 3 s of an utterance are the prompt for the rest of it.
    `cross_sentence.txt` prompts each text with another utterance of its speaker, drawn from the five of 2 to 5 s that
    are closest to 3 s. `previous_utterance.txt` prompts it with the one before of 4 to 10 s, the first with the last.
    Utterances whose speaker has no such prompt are left out, and their number is logged. `name` is the corpus's.

    Raises UserError if no utterance fits.
    """
    seconds = durations(rows)
    tested = texts_to_speak(rows, seconds)
    # A continuation's prompt is cut from its own utterance by stage 3.
    lists = ([(row, row) for row in tested], cross_sentence(rows, seconds, seed), previous_utterance(tested))
    paths = []
    for kind, pairs in zip(LISTS, lists, strict=True):
        path = folder / f"{kind}.txt"
        write_list(path, f"{name} {kind}", (pair_line(row, prompt) for row, prompt in pairs))
        paths.append(path)
        if len(pairs) < len(tested):
            log.info("%s leaves out %d utterances whose speaker has no other prompt", path, len(tested) - len(pairs))
    return paths


def write_vctk_lists(rows: Sequence[SourceUtterance], folder: Path, name: str, seed: int = 0) -> list[Path]:
    """Write a test list for prompts of about 3, 5 and 10 s, with one text of each speaker.

    The prompt is the speaker's longest utterance below that length, and the text is that of another one, drawn at
    random. Speakers without such a prompt are left out, and their number is logged. Raises UserError if all are.
    """
    seconds = durations(rows)
    by_speaker = _by_speaker(row for row in rows if row.id in seconds)
    paths = []
    for longest in VCTK_PROMPT_SECONDS:
        rng, pairs = random.Random(seed), []
        for own in by_speaker.values():
            prompt = max(
                (row for row in own if seconds[row.id] < longest), key=lambda row: seconds[row.id], default=None
            )
            others = [row for row in own if row is not prompt]
            if prompt is not None and others:
                pairs.append((rng.choice(others), prompt))
        if not pairs:
            raise UserError(f"--build_test_lists: no speaker has an utterance of less than {longest} s and another one")
        if len(pairs) < len(by_speaker):
            log.info("%d s: %d speakers have no such prompt", longest, len(by_speaker) - len(pairs))
        paths.append(folder / f"vctk_{longest}s.txt")
        write_list(paths[-1], f"{name} {longest}s", (pair_line(row, prompt) for row, prompt in pairs))
    return paths


def texts_to_speak(rows: Sequence[SourceUtterance], seconds: Mapping[str, float]) -> list[SourceUtterance]:
    """The utterances of 4 to 10 s. Raises UserError if there are none."""
    shortest, longest = TEXT_SECONDS
    tested = [row for row in rows if shortest <= seconds.get(row.id, 0) <= longest]
    if not tested:
        raise UserError(
            f"--build_test_lists: no utterance of {shortest:g} to {longest:g} s with a text in the test set"
        )
    return tested


def cross_sentence(
    rows: Sequence[SourceUtterance], seconds: Mapping[str, float], seed: int = 0
) -> list[tuple[SourceUtterance, SourceUtterance]]:
    """Pairs of an utterance of 4 to 10 s and a prompt: one of the five others of its speaker closest to 3 s."""
    shortest, longest = _PROMPT_RANGE_SECONDS
    fitting = [row for row in rows if shortest <= seconds.get(row.id, 0) <= longest]
    # Candidates for prompts of each speaker, those closest to 3 s first.
    by_speaker = _by_speaker(sorted(fitting, key=lambda row: abs(seconds[row.id] - PROMPT_SECONDS)))
    rng, pairs = random.Random(seed), []
    for row in texts_to_speak(rows, seconds):
        prompts = [other for other in by_speaker[row.speaker] if other.id != row.id][:5]
        if prompts:
            pairs.append((row, rng.choice(prompts)))
    return pairs


def previous_utterance(tested: Sequence[SourceUtterance]) -> list[tuple[SourceUtterance, SourceUtterance]]:
    """Pairs of an utterance and its prompt: the one before of the speaker, and of the first one the last."""
    pairs = []
    for own in _by_speaker(tested).values():
        if len(own) > 1:
            pairs += [(row, prompt) for prompt, row in pairwise([own[-1], *own])]
    return pairs


def write_list(path: Path, name: str, lines: Iterable[str]) -> None:
    """Write a list whose first line names it and says how many texts it has; the report finds its published results."""
    lines = list(lines)
    with atomic_write(path) as temporary:
        temporary.write_text(f"{HEADING}{name}, {len(lines)} texts\n" + "".join(lines), encoding="utf-8")
    log.info("%s: %d lines", path, len(lines))


def pair_line(row: SourceUtterance, prompt: SourceUtterance) -> str:
    """A line of a list: text, text of the prompt, prompt, recording."""
    return f"{row.text}|{prompt.text}|{prompt.audio_path}|{row.audio_path}\n"


def durations(rows: Sequence[SourceUtterance]) -> dict[str, float]:
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


def _by_speaker(rows: Iterable[SourceUtterance]) -> dict[str, list[SourceUtterance]]:
    by_speaker: dict[str, list[SourceUtterance]] = defaultdict(list)
    for row in rows:
        by_speaker[row.speaker].append(row)
    return by_speaker
