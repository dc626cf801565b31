"""Checks texts and prompts from the page; each mistake is one line."""

from pathlib import Path

from utils.errors import UserError
from utils.prompts import Prompt, check_prompt_length, prepare_prompt


def check_text(text: str, name: str, max_characters: int) -> str:
    """Strip a text. Raises UserError if it is empty or too long; `name` is what the message calls it."""
    text = text.strip()
    if not text:
        raise UserError(f"{name} is empty; write it first")
    if len(text) > max_characters:
        raise UserError(f"{name} has {len(text)} characters; the limit is {max_characters}, so split it")
    return text


def check_prompt(path: str | None) -> Path:
    """Return the prompt's file. Raises UserError if there is none, or it is not audio, or too short or too long."""
    if not path:
        raise UserError("there is no prompt; upload or record a few seconds of the voice")
    try:
        check_prompt_length(Path(path))
    except UserError as error:
        raise _by_its_name(Path(path), error) from error
    return Path(path)


def read_prompt(path: Path, text: str, sample_rate_hz: int) -> Prompt:
    """Call `prepare_prompt`; errors name the file as the user who uploaded it knows it."""
    try:
        return prepare_prompt(path, text, sample_rate_hz)
    except UserError as error:
        raise _by_its_name(path, error) from error


def _by_its_name(path: Path, error: UserError) -> UserError:
    """Remove the server's upload folder from an error: it means nothing to the user."""
    return UserError(str(error).replace(str(path), path.name))
