"""Which language a text is in, in an experiment with several."""

import re
from collections.abc import Sequence
from functools import cache

from processors.languages import language_code, language_name, may_be_in
from utils.errors import UserError
from utils.log import log

# Like [pause 0.5s].
_TAG = re.compile(r"\[\s*language\b([^\[\]]*)\]\s*", re.IGNORECASE)


def split_language_tag(text: str) -> tuple[str, str]:
    """The language that a text names at its beginning, as in `[language zh] 你好`, or "", and the rest of it.

    Raises UserError for a tag anywhere else.
    """
    tag = _TAG.match(text.lstrip())
    language, rest = (tag[1].strip(), text.lstrip()[tag.end() :]) if tag else ("", text)
    if (tag and not language) or (other := _TAG.search(rest)):
        wrong = tag[0] if tag and not language else other[0] if other else ""
        raise UserError(f"{wrong.strip()}: a text begins with its language, as in [language zh], and has no other")
    return language, rest


def choose_language(name: str, text: str, given: str, languages: Sequence[str], likely: str = "") -> str:
    """The language of a text called `name`, one of those that the experiment was trained on.

    `given` is what the user says of it, if anything. Otherwise the script decides; where it leaves a choice, `likely`
    is taken, or the first language with a warning. Raises UserError if the experiment was not trained on it.
    """
    if given:
        return _trained_language(given, languages)
    possible = may_be_in(text, languages)
    if len(possible) == 1 or likely in possible:
        return likely if likely in possible else possible[0]
    # Letters that no language has are reported when the text is read.
    chosen = (possible or languages)[0]
    if len(languages) > 1:
        _warn_once(f"{name} may be in {' or '.join(possible or languages)}, and is read as {chosen}; name its language")
    return chosen


@cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def _trained_language(given: str, languages: Sequence[str]) -> str:
    asked = language_name(given)
    # A voice of the same language, such as en-gb for en-us, is the closest there is.
    alike = [language for language in languages if language_code(language) == language_code(asked)]
    if asked in languages or len(alike) == 1:
        return asked if asked in languages else alike[0]
    trained = ", ".join(languages)
    raise UserError(f"the experiment was not trained on {given}, but on {trained}; choose one, or another experiment")
