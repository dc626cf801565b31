"""Prepares prompts: from any recording to a few seconds of clean speech and its text.

Stages 3, 4 and 5 all prepare prompts here, so that a file is the same prompt in each of them.
"""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from utils.audio import read_audio, read_duration_seconds
from utils.errors import UserError

MIN_SECONDS, MAX_SECONDS = 0.5, 15.0
# Longer recordings are refused rather than searched for a pause.
MAX_READ_SECONDS = 120.0
# More is kept after the last sound than before the first: utterances end in silence, and a prompt without any looks
# unfinished to the model.
_FRONT_SECONDS, _BACK_SECONDS = 0.05, 0.1
_FRAME_SECONDS, _HOP_SECONDS = 0.02, 0.01
# -60 dB of full scale: a muted microphone stays below.
_SILENT_BELOW = 1e-3
_CLIPPED_FROM, _CLIPPED_SHARE = 0.99, 1e-3
_PAUSE_SECONDS = 0.2
# A cut keeps at least this much, and its shares of the audio and of the text differ by at most this much.
_MIN_CUT_SECONDS, _MAX_SHARE_ERROR = 2.0, 0.06
_SENTENCE_END = re.compile(r"(?<=[.!?;:,])[\"'”’)]*\s+")


@dataclass(frozen=True)
class Prompt:
    """A prepared prompt: audio (N,) at the codec's rate and its text.

    `seconds` is the length of the audio, `trimmed_seconds` the silence removed at the start and the end, `cut_seconds`
    what was removed after a pause. `warnings` say what may sound bad. The prompt of a voice has its codes (T, Q) and
    audio of length 0, and may have its phones and its language.
    """

    audio: Tensor
    text: str
    seconds: float
    trimmed_seconds: tuple[float, float] = (0.0, 0.0)
    cut_seconds: float = 0.0
    warnings: tuple[str, ...] = field(default_factory=tuple)
    codes: Tensor | None = None
    phones: tuple[str, ...] | None = None
    language: str = ""

    def to_row(self) -> dict[str, Any]:
        """The entry for `results.jsonl`."""
        return {
            "seconds": round(self.seconds, 3),
            "trimmed_seconds": [round(seconds, 3) for seconds in self.trimmed_seconds],
            "cut_seconds": round(self.cut_seconds, 3),
            "text": self.text,
            "warnings": list(self.warnings),
        }


def check_prompt_length(path: Path) -> None:
    """Raises UserError if, by its header alone, a prompt is too short, too long, or not audio."""
    seconds = read_duration_seconds(path)
    if seconds < MIN_SECONDS:
        raise _too_short(seconds)
    if seconds > MAX_READ_SECONDS:
        raise _too_long(seconds)


def prepare_prompt(path: Path, text: str, sample_rate_hz: int, may_be_long: bool = False) -> Prompt:
    """Read a prompt as mono at `sample_rate_hz`, trim silence at both ends, and check level and length.

    Silence is trimmed to 50 ms at the start, as more of it makes the model silent and costs words, and to 100 ms at the
    end. A prompt of more than 15 s is cut at a pause that falls on the end of a clause of its text. `may_be_long`
    disables that for continuations, which keep the first seconds and need the whole text.

    Raises UserError if the file cannot be read, is silent, has less than 0.5 s of sound, or is too long and has no such
    pause.
    """
    # A header may state less than there is, so the length is checked again on what was read.
    audio = read_audio(path, sample_rate_hz, duration_seconds=MAX_READ_SECONDS + 1)
    if len(audio) > MAX_READ_SECONDS * sample_rate_hz and not may_be_long:
        raise _too_long(len(audio) / sample_rate_hz)
    is_sound = find_sound(audio.numpy(), sample_rate_hz)
    if not is_sound.any():
        raise UserError("the prompt is silent; check the microphone, or choose another recording")
    # Trim silence: times of the first and the last frame with sound.
    first, last = np.flatnonzero(is_sound)[[0, -1]] * _HOP_SECONDS
    if last - first + _FRAME_SECONDS < MIN_SECONDS:
        raise _too_short(last - first + _FRAME_SECONDS)
    whole_seconds = len(audio) / sample_rate_hz
    start, end = max(0.0, first - _FRONT_SECONDS), min(whole_seconds, last + _FRAME_SECONDS + _BACK_SECONDS)
    trimmed = start, whole_seconds - end
    cut_seconds = 0.0
    if end - start > MAX_SECONDS and not may_be_long:
        cut_end, text = _cut_at_pause(is_sound, text, start, end)
        cut_seconds, end = end - cut_end, cut_end
    kept = audio[round(start * sample_rate_hz) : round(end * sample_rate_hz)]
    warnings = []
    if (kept.abs() >= _CLIPPED_FROM).float().mean() > _CLIPPED_SHARE:
        warnings.append("the prompt is clipped: it was recorded too loud, and the speech may sound distorted")
    return Prompt(kept.contiguous(), text, len(kept) / sample_rate_hz, trimmed, cut_seconds, tuple(warnings))


def find_sound(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Whether each frame of (N,) samples has sound, as (F,) booleans: frames of 20 ms, one every 10 ms.

    The threshold is 6 dB above the noise, but between 40 and 25 dB below the loudest frame, and at least -60 dB of
    full scale. A single loud frame is a click, not sound.
    """
    frame, hop = round(_FRAME_SECONDS * sample_rate_hz), round(_HOP_SECONDS * sample_rate_hz)
    padded = np.pad(samples, (0, frame))
    # Frame energies as differences of a cumulative sum, without a copy of each frame.
    squares = np.concatenate([[0.0], np.cumsum(padded.astype(np.float64) ** 2)])
    starts = np.arange(0, len(samples), hop)
    levels = np.sqrt(np.maximum(squares[starts + frame] - squares[starts], 0) / frame)
    loudest, noise = levels.max(initial=0.0), np.percentile(levels, 5) if len(levels) else 0.0
    threshold = max(_SILENT_BELOW, float(np.clip(2 * noise, loudest * 10 ** (-40 / 20), loudest * 10 ** (-25 / 20))))
    is_loud = levels > threshold
    beside = np.pad(is_loud, 1)
    return is_loud & (beside[:-2] | beside[2:])


def is_silent(audio: Tensor, sample_rate_hz: int) -> bool:
    """Whether (N,) audio has no frame with sound."""
    return not find_sound(audio.detach().float().cpu().numpy(), sample_rate_hz).any()


def _cut_at_pause(is_sound: np.ndarray, text: str, start: float, end: float) -> tuple[float, str]:
    """Where to end a prompt that is too long, in seconds, and its text up to there.

    A pause and the end of a clause match if the share of the audio before the one is close to the share of the text's
    letters before the other. Of all pairs that leave 2 to 15 s, the best match is taken.
    """
    sounds = np.flatnonzero(is_sound) * _HOP_SECONDS
    pauses = [(a + _FRAME_SECONDS, b) for a, b in pairwise(sounds) if b - a - _FRAME_SECONDS >= _PAUSE_SECONDS]
    clause_ends = [match.start() for match in _SENTENCE_END.finditer(text.strip())]
    num_letters = max(1, _count_letters(text))
    candidates = [
        (abs((pause_start - start) / (end - start) - _count_letters(text[:clause]) / num_letters), pause_start, clause)
        for pause_start, pause_end in pauses
        if _MIN_CUT_SECONDS <= pause_start - start <= MAX_SECONDS - _BACK_SECONDS
        for clause in clause_ends
    ]
    error, pause_start, clause = min(candidates, default=(1.0, 0.0, 0))
    if error > _MAX_SHARE_ERROR:
        raise UserError(
            f"the prompt has {end - start:.0f} s, and no pause in its first {MAX_SECONDS:g} s falls on the end of a "
            f"clause of its text; cut the recording and its text to {MAX_SECONDS:g} s at most, as 3 s are good"
        )
    return pause_start + _BACK_SECONDS, text.strip()[:clause].rstrip()


def _count_letters(text: str) -> int:
    return sum(character.isalnum() for character in text)


def _too_short(seconds: float) -> UserError:
    return UserError(
        f"the prompt has {seconds:.2f} s of sound; at least {MIN_SECONDS:g} s are needed, and 3 s are good"
    )


def _too_long(seconds: float) -> UserError:
    return UserError(
        f"the prompt has more than {MAX_READ_SECONDS:g} s ({seconds:.0f} s); cut it to {MAX_SECONDS:g} s at most, as "
        "3 s are good"
    )
