"""Characters as phones."""

from collections.abc import Sequence

from processors.frontends.base import Phonemizer, normalize_text
from processors.symbols import join_words


class GraphemePhonemizer(Phonemizer):
    """The lower-cased characters of the text, for languages that espeak-ng does not have; `language` is not used."""

    def __init__(self, language: str = "") -> None:
        pass

    def phonemize(self, texts: Sequence[str]) -> list[list[str]]:
        return [join_words(normalize_text(text).lower().split()) for text in texts]
