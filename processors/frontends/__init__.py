"""Text frontends: text to phones. A new one is a file here, a line in `FRONTENDS` and its name in the schema."""

from config.class_path import import_class
from processors.frontends.base import Phonemizer
from processors.languages import AUTO, language_name
from utils.errors import UserError

FRONTENDS = {
    "espeak": "processors.frontends.espeak:EspeakPhonemizer",
    "graphemes": "processors.frontends.graphemes:GraphemePhonemizer",
    "pypinyin": "processors.frontends.mandarin:MandarinPhonemizer",
    "pyopenjtalk": "processors.frontends.japanese:JapanesePhonemizer",
}
# Of the languages that espeak-ng reads worse than another frontend, or not at all.
_FRONTEND_OF_LANGUAGE = {"cmn": "pypinyin", "ja": "pyopenjtalk"}


def build_phonemizer(phone_extractor: str, language: str) -> Phonemizer:
    """The frontend that `preprocess.phone_extractor` names; its module, and the libraries it needs, is imported now.

    `auto` is the frontend of the language. `language` may be an alias. Raises UserError for another name, a language
    that the frontend does not have, or a library that is not installed.
    """
    language = language_name(language)
    if phone_extractor == AUTO:
        phone_extractor = _FRONTEND_OF_LANGUAGE.get(language, "espeak")
    if phone_extractor not in FRONTENDS:
        raise UserError(f"preprocess.phone_extractor: {phone_extractor} is not one of {', '.join(FRONTENDS)}, {AUTO}")
    frontend: type[Phonemizer] = import_class(FRONTENDS[phone_extractor])
    return frontend(language)
