"""Text frontends: text to phones. A new one is a file here, a line in `FRONTENDS` and its name in the schema."""

from config.class_path import import_class
from processors.frontends.base import Phonemizer
from utils.errors import UserError

FRONTENDS = {
    "espeak": "processors.frontends.espeak:EspeakPhonemizer",
    "graphemes": "processors.frontends.graphemes:GraphemePhonemizer",
}


def build_phonemizer(phone_extractor: str, language: str) -> Phonemizer:
    """The frontend that `preprocess.phone_extractor` names; its module, and the libraries it needs, is imported now.

    Raises UserError for another name, or a language that the frontend does not have.
    """
    if phone_extractor not in FRONTENDS:
        raise UserError(f"preprocess.phone_extractor: {phone_extractor} is not one of {', '.join(FRONTENDS)}")
    frontend: type[Phonemizer] = import_class(FRONTENDS[phone_extractor])
    return frontend(language)
