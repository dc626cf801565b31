"""What the page takes: texts and prompts of a sane length, told in one line where they are not."""

from pathlib import Path

from torch import Tensor

from utils.audio import read_audio, read_duration_seconds
from utils.errors import UserError

MAX_CHARACTERS = 1000
MIN_SECONDS, MAX_SECONDS = 0.5, 30.0
# 16 bits have 32768 steps: what stays below this is a muted microphone's noise.
_SILENT_BELOW = 1e-3


def check_text(text: str, name: str) -> str:
    """The text without blanks around it. Raises UserError when it is empty or too long; `name` says which it is."""
    text = text.strip()
    if not text:
        raise UserError(f"{name} is empty; write it first")
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{name} has {len(text)} characters; at most {MAX_CHARACTERS} are taken, so say it in parts")
    return text


def check_prompt(path: str | None) -> Path:
    """The prompt's file. Raises UserError when there is none, it is not audio, or it is too short or too long."""
    if not path:
        raise UserError("there is no prompt; upload or record a few seconds of the voice")
    prompt = Path(path)
    try:
        seconds = read_duration_seconds(prompt)
    except UserError as error:
        raise _by_its_name(prompt, error) from error
    _check_length(seconds)
    return prompt


def read_prompt(path: Path, sample_rate_hz: int) -> Tensor:
    """A prompt as (N,) samples. Raises UserError when it cannot be read, is silent, or its header lied."""
    try:
        # A header may tell less than there is.
        audio = read_audio(path, sample_rate_hz, duration_seconds=MAX_SECONDS + 1)
    except UserError as error:
        raise _by_its_name(path, error) from error
    _check_length(len(audio) / sample_rate_hz)
    if audio.abs().max() < _SILENT_BELOW:
        raise UserError("the prompt is silent; check the microphone, or choose another recording")
    return audio


def _check_length(seconds: float) -> None:
    if seconds < MIN_SECONDS:
        raise UserError(f"the prompt has {seconds:.2f} s; at least {MIN_SECONDS:g} s are needed, and 3 s are good")
    if seconds > MAX_SECONDS:
        raise UserError(f"the prompt has {seconds:.0f} s; cut it to {MAX_SECONDS:g} s at most, as 3 s are good")


def _by_its_name(path: Path, error: UserError) -> UserError:
    """The error without the folder that uploads lie in, which says nothing to who uploaded."""
    return UserError(str(error).replace(str(path), path.name))
