"""The scripts that languages are written in. espeak-ng spells letters of other scripts, or says "Chinese letter"."""

import re
import unicodedata

# Scripts, by the first word of their letters' Unicode names, with the languages that are written in them. Every voice
# reads Latin letters, and no voice reads scripts that are not listed.
_LANGUAGES = {
    "CYRILLIC": "ba be bg bs cv hr kaa kk ky mk nog ru sr tk tt uk uz",
    "GREEK": "el grc",
    "ARABIC": "ar fa ku sd ug ur",
    "HEBREW": "he",
    "DEVANAGARI": "hi kok mr ne",
    "BENGALI": "as bn bpy",
    "GURMUKHI": "pa",
    "GUJARATI": "gu",
    "ORIYA": "or",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "SINHALA": "si",
    "THAI": "th",
    "MYANMAR": "my shn",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy hyw",
    "ETHIOPIC": "am ti",
    "HANGUL": "ko",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "cmn hak yue",
    "CHEROKEE": "chr",
    "SHAVIAN": "en-shaw",
}
_READERS = {script: set(languages.split()) for script, languages in _LANGUAGES.items()}
LATIN = "LATIN"
# Japanese is also written in Chinese characters, which espeak-ng's voice of it cannot read.
_ALSO_WRITTEN_IN = {"ja": {"CJK"}}
# Categories of letters with and without case. Modifier letters are read with their neighbours.
_LETTERS = {"Lu", "Ll", "Lt", "Lo"}
# A single Greek letter is a symbol, such as pi, and every voice knows its name.
_GREEK_WORD = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]{2,}")


def unreadable_letters(text: str, language: str) -> list[str]:
    """The distinct letters of `text` that the voice `language` cannot read, in order of appearance."""
    names = {language.lower()}
    if "latn" not in language.lower():
        # Voices such as fa-latn read the language's Latin spelling only.
        names.add(re.split(r"[-_]", language.lower())[0])
    greek_words = set("".join(_GREEK_WORD.findall(text)))

    def can_read(letter: str) -> bool:
        script = script_of(letter)
        if script == "GREEK" and letter not in greek_words:
            return True
        return script == LATIN or bool(_READERS.get(script, set()) & names)

    # Most characters are Latin letters below U+0250, which need no look-up.
    others = dict.fromkeys(character for character in text if character > "\u024f")
    return [letter for letter in others if unicodedata.category(letter) in _LETTERS and not can_read(letter)]


def scripts_of_language(language: str) -> set[str]:
    """The scripts that a language is written in, as `script_of` names them: Latin if no other is known."""
    base = re.split(r"[-_]", language.lower())[0]
    if "latn" in language.lower():
        return {LATIN}
    scripts = {script for script, languages in _READERS.items() if base in languages}
    return scripts | _ALSO_WRITTEN_IN.get(base, set()) or {LATIN}


def script_of(letter: str) -> str:
    """The script of a letter: the first word of its Unicode name."""
    # A letterlike symbol has the script of its letter.
    plain = unicodedata.normalize("NFKC", letter)[0]
    return unicodedata.name(plain, "").split(" ")[0].split("-")[0]
