"""What the page takes: texts and prompts of a sane length, told in one line where they are not."""

from pathlib import Path

from utils.errors import UserError
from utils.prompts import Prompt, check_prompt_length, prepare_prompt

MAX_CHARACTERS = 1000


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
    try:
        check_prompt_length(Path(path))
    except UserError as error:
        raise _by_its_name(Path(path), error) from error
    return Path(path)


def read_prompt(path: Path, text: str, sample_rate_hz: int) -> Prompt:
    """`prepare_prompt`, with errors that name an upload as its owner does."""
    try:
        return prepare_prompt(path, text, sample_rate_hz)
    except UserError as error:
        raise _by_its_name(path, error) from error


def _by_its_name(path: Path, error: UserError) -> UserError:
    """The error without the folder that uploads lie in, which says nothing to who uploaded."""
    return UserError(str(error).replace(str(path), path.name))
