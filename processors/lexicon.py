"""The pronunciation lexicon: words, and how each is spoken, in IPA or spelled another way."""

import hashlib
import re
import unicodedata
from pathlib import Path

from config.schema import PreprocessSettings
from processors.inline import PHONES_OR_PAUSE
from utils.config import resolve_path
from utils.errors import UserError
from utils.paths import ROOT
from utils.text_files import read_text_file

# Letters and marks that no spelling has: a value with one of them is IPA.
_IPA_LETTER = re.compile("[\u0250-\u02af\u02b0\u02b2\u02b7\u02c8\u02cc\u02d0\u02d1\u02de\u1d00-\u1dbf]")
# Scripts that have no spaces between words: there, a word has no boundary to look for.
_UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
_LETTER = rf"(?:(?!{_UNSPACED})\w)"
_WORD = re.compile(rf"{_LETTER}+(?:['’-]{_LETTER}+)*")


class Lexicon:
    """Replaces words by their entries, before anything else is done to a text. Words match whole and in any case.

    `spoken` has for each word, in lower case, what replaces it: inline phones or another spelling.
    """

    def __init__(self, spoken: dict[str, str]) -> None:
        self._spoken = spoken
        # A text is cut into words, which are looked up: one pattern of all words would be slow for many. Only entries
        # that are no single word, such as "C++" and "New York", are searched for.
        special = [word for word in spoken if not _WORD.fullmatch(word)]
        self._pattern = re.compile(
            # Inline phones and pauses come first, and are left unchanged.
            f"{PHONES_OR_PAUSE.pattern}"
            f"|(?P<special>{'|'.join([*map(_whole, sorted(special, key=len, reverse=True)), '(?!)'])})"
            f"|(?P<word>{_WORD.pattern})",
            re.IGNORECASE,
        )

    @classmethod
    def from_settings(cls, settings: PreprocessSettings) -> "Lexicon | None":
        """The lexicon that the settings name, if they name one. Raises UserError if it cannot be read."""
        if settings.lexicon is None:
            return None
        try:
            return cls.load(resolve_path(settings.lexicon, ROOT))
        except UserError as error:
            raise UserError(f"preprocess.lexicon: {error}") from None

    @classmethod
    def load(cls, path: Path) -> "Lexicon":
        """Read a file with a word, a tab and its phones or another spelling in each line.

        Phones are written between slashes, or recognized by their letters. Blank lines, and lines that begin with "# ",
        are skipped. Raises UserError with the file and the line for anything else.
        """
        spoken: dict[str, str] = {}
        lines: dict[str, int] = {}
        for number, line in enumerate(read_text_file(path).split("\n"), start=1):
            if not line.strip() or line.startswith("# "):
                continue
            fields = [" ".join(field.split()) for field in line.split("\t")]
            if len(fields) != 2 or not all(fields):
                raise UserError(
                    f"{path}, line {number}: {line.strip()[:80]!r} is not a word, a tab, and its phones or spelling"
                )
            word = _key(fields[0])
            if word in lines:
                raise UserError(f"{path}, line {number}: {fields[0]} is already on line {lines[word]}; remove one")
            try:
                spoken[word] = _replacement(fields[1])
            except ValueError as error:
                raise UserError(f"{path}, line {number}: {error}") from None
            lines[word] = number
        return cls(spoken)

    def apply(self, text: str) -> str:
        """The text with each word of the lexicon replaced, except in inline phones and pauses."""
        return self._pattern.sub(self._replace, unicodedata.normalize("NFC", text))

    def _replace(self, match: re.Match[str]) -> str:
        if match["special"] is not None:
            return self._spoken[_key(match[0])]
        word = match["word"]
        if word is None:
            return match[0]
        whole = self._spoken.get(_key(word))
        if whole is not None:
            return whole
        # Of "Bob's" and "Munich-based", a part may be in the lexicon.
        return re.sub(r"\w+", lambda part: self._spoken.get(_key(part[0]), part[0]), word)


def lexicon_fingerprint(settings: PreprocessSettings) -> str | None:
    """Changes with the content of the lexicon; None without one. Raises UserError if it cannot be read."""
    if settings.lexicon is None:
        return None
    text = read_text_file(resolve_path(settings.lexicon, ROOT))
    return hashlib.sha256(text.encode()).hexdigest()


def _key(word: str) -> str:
    return " ".join(unicodedata.normalize("NFC", word).replace("’", "'").casefold().split())


def _whole(word: str) -> str:
    """A pattern of the word with any white space inside, and with no letter before or after it."""
    pattern = r"\s+".join(map(re.escape, word.split())).replace("'", "['’]")
    before = "" if re.match(_UNSPACED, word[0]) or not word[0].isalnum() else r"(?<!\w)"
    after = "" if re.match(_UNSPACED, word[-1]) or not word[-1].isalnum() else r"(?!\w)"
    return before + pattern + after


def _replacement(value: str) -> str:
    """Inline phones for IPA, or the other spelling. Raises ValueError if it is neither."""
    inline = re.fullmatch(r"/([^/]+)/|\[\[([^\[\]]+)\]\]", value)
    phones = (inline[1] or inline[2]) if inline else value if _IPA_LETTER.search(value) else None
    if phones is None:
        if not any(character.isalnum() for character in value):
            raise ValueError(f"{value!r} has nothing that can be spoken")
        return value
    for character in phones:
        if unicodedata.category(character)[0] not in "LM" and character not in " .-'‿|\u02c8\u02cc0123456789˥˦˧˨˩":
            raise ValueError(f"{character!r} in {value!r} is not IPA")
    return f"[[{phones}]]"
