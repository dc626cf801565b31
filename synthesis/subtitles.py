"""Subtitles beside the audio, from the times of the words: SubRip (srt) or WebVTT (vtt)."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processors.inline import without_marks
from processors.languages import language_code
from synthesis.parts import sentence_ends
from utils.files import atomic_write

FORMATS = ("srt", "vtt")
# A cue is at most two lines of 42 characters, and ends at sentences and at pauses.
_MAX_CHARACTERS, _MAX_SECONDS, _PAUSE_SECONDS = 84, 7.0, 0.7


@dataclass(frozen=True)
class Cue:
    """A piece of text that is shown from `start` to `end` seconds."""

    text: str
    start: float
    end: float


def make_cues(text: str, words: Sequence[dict[str, Any]], language: str) -> list[Cue]:
    """The cues of a text, from `words` of `results.jsonl`.

    Each shows the text as it is written, but without pauses and the brackets of inline phones. `language` decides
    which abbreviations end no sentence.
    """
    ends = sentence_ends(text, language_code(language))
    cues: list[Cue] = []
    begin, position, first = 0, 0, None
    for index, word in enumerate(words):
        start = max(position, text.find(word["word"], position))
        position = start + len(word["word"])
        if first is None:
            begin, first = start, word
        after = words[index + 1] if index + 1 < len(words) else None
        is_end = after is None
        if after is not None:
            num_characters = position + 1 + len(after["word"]) - begin
            # The first sentence end at or after the word is before the next word.
            next_end = bisect_left(ends, position)
            is_end = (
                (next_end < len(ends) and ends[next_end] <= max(position, text.find(after["word"], position)))
                or after["start"] - word["end"] >= _PAUSE_SECONDS
                or num_characters > _MAX_CHARACTERS
                or after["end"] - first["start"] > _MAX_SECONDS
            )
        if is_end:
            shown = " ".join(without_marks(text[begin:position]).split())
            cues.append(Cue(shown, first["start"], max(word["end"], first["start"] + 0.001)))
            first = None
    return cues


def write_subtitles(path: Path, cues: Sequence[Cue]) -> None:
    """Write cues in the format of the suffix, .srt or .vtt, atomically."""
    is_vtt = path.suffix == ".vtt"
    blocks = []
    for number, cue in enumerate(cues, start=1):
        times = f"{_clock(cue.start, is_vtt)} --> {_clock(cue.end, is_vtt)}"
        # In WebVTT these characters begin tags and entities. An arrow would be a line of times in both.
        text = cue.text.replace("-->", "->")
        if is_vtt:
            text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{times}\n{text}\n" if is_vtt else f"{number}\n{times}\n{text}\n")
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(["WEBVTT\n", *blocks] if is_vtt else blocks), encoding="utf-8")


def _clock(seconds: float, is_vtt: bool) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60000)
    point = "." if is_vtt else ","
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"
