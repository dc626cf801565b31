"""IPA phones by espeak-ng, through phonemizer."""

import difflib
import re
from collections.abc import Iterator, Sequence

from phonemizer.separator import Separator

from processors.frontends.base import Phonemizer, normalize_text
from processors.frontends.espeak_library import espeak_backend, espeak_languages
from processors.frontends.scripts import unreadable_letters
from processors.symbols import WORD_BOUNDARY, join_words
from utils.errors import UserError

PHONE_SEPARATOR = "|"

# Phonemizer's default marks with the white space around them. A comma or stop inside a number is part of the number.
_MARKS = re.compile(r'(?:\s*(?:[;:!?¡¿—…"«»“”(){}\[\]]|(?<![0-9])[,.]|[,.](?![0-9]))\s*)+')
# A single quote that closes speech after a mark. Left in the next chunk, it would take the word boundary with it:
# espeak-ng drops the quote and the space after it.
_CLOSING_QUOTE = re.compile(r"(?<=[;:!?,.…])['’‘]+(?!\w)")
# A decimal without its zero, whose point would be read as a stop.
_BARE_DECIMAL = re.compile(r"(?<![\w.,])\.(?=[0-9])")

# The phones of several letters of each language; for others, affricates and common diphthongs.
_LONG_PHONES = {
    "en": "aɪ aɪə aɪɚ aʊ dʒ eə eɪ iə oʊ oːɹ tʃ ɑːɹ ɔɪ ɔːɹ əl əʊ ɛɹ ɪɹ ʊə ʊɹ",
    "de": "aɪ aʊ dʒ pf ts tʃ ɔø ʊɐ",
    "fr": "",
    "es": "aɪ aʊ eɪ eʊ oɪ tʃ",
    "it": "aɪ dz dʒ eɪ ts tʃ",
    "pt": "aɪ aʊ eɪ eʊ iʊ oɪ uɪ ɔɪ ɛɪ",
    "nl": "eɪ œy ɛɪ ʌʊ",
    "pl": "dʒ ts tɕ tʃ",
}
_COMMON_LONG_PHONES = "aɪ aʊ dʒ eɪ oɪ ts tʃ"


class EspeakPhonemizer(Phonemizer):
    """IPA phones with punctuation and without stress.

    `language` is an espeak-ng voice such as en-us or de. For words that espeak-ng reads in another language, its
    language-switch flags are removed.

    Raises UserError if espeak-ng has no such voice or cannot be loaded.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self._separator = Separator(word=WORD_BOUNDARY, syllable="-", phone=PHONE_SEPARATOR)
        try:
            languages = espeak_languages()
            if language not in languages:
                raise UserError(_no_such_language(language, languages))
            self._backend = espeak_backend(language)
        except RuntimeError as error:
            raise UserError(
                f"preprocess.language: espeak-ng cannot speak {language}: {error}; choose another language, or set "
                "preprocess.phone_extractor to graphemes"
            ) from None

    def phonemize(self, texts: Sequence[str]) -> list[list[str]]:
        # Marks are split off and put back here. Phonemizer's own way assigns a mark to the wrong line when a line has
        # no word, a chunk gives no phone, or a number contains a stop.
        pieces = [_split_marks(_pronounceable(text)) for text in texts]
        chunks = [chunk for text_pieces in pieces for chunk in text_pieces[::2] if chunk]
        phones_of_chunks = iter(self._backend.phonemize(chunks, separator=self._separator, strip=True))
        return [_to_phones(text_pieces, phones_of_chunks) for text_pieces in pieces]

    @property
    def long_phones(self) -> list[str]:
        return _LONG_PHONES.get(re.split("[-_]", self._language)[0], _COMMON_LONG_PHONES).split()

    def unreadable(self, text: str) -> list[str]:
        return unreadable_letters(normalize_text(text), self._language)

    def __reduce__(self) -> tuple[type["EspeakPhonemizer"], tuple[str]]:
        return EspeakPhonemizer, (self._language,)


def _pronounceable(text: str) -> str:
    """The normalized text, with what espeak-ng would misread rewritten."""
    return _BARE_DECIMAL.sub("0.", _CLOSING_QUOTE.sub("", normalize_text(text)))


def _split_marks(text: str) -> list[str]:
    """Split text into `[words, marks, words, ...]`; the first and last pieces are words and may be empty."""
    pieces: list[str] = []
    end = 0
    for match in _MARKS.finditer(text):
        pieces += [text[end : match.start()], match.group()]
        end = match.end()
    return [*pieces, text[end:]]


def _to_phones(pieces: list[str], phones_of_chunks: Iterator[str]) -> list[str]:
    """The phones of one text; takes espeak-ng's output for each non-empty piece of words from the iterator."""
    line = ""
    for index, piece in enumerate(pieces):
        if index % 2:
            line += piece.replace(" ", WORD_BOUNDARY)
        elif piece:
            line += next(phones_of_chunks)
    words = [re.findall(r"\w+|[^\w\s]", word) for word in line.split(WORD_BOUNDARY)]
    return join_words([[phone for phone in word if phone != PHONE_SEPARATOR] for word in words])


def _no_such_language(language: str, languages: list[str]) -> str:
    base = re.split(r"[-_]", language.lower())[0]
    near = [name for name in languages if re.split(r"[-_]", name.lower())[0] == base]
    # Names with the same base language are all near; otherwise only those that are spelled alike.
    near = difflib.get_close_matches(language.lower(), near or languages, n=5, cutoff=0 if near else 0.6)
    if near:
        return f"preprocess.language: espeak-ng has no language {language}; the nearest are {', '.join(near)}"
    return f"preprocess.language: espeak-ng has no language {language}; it has {', '.join(languages)}"
