"""The languages of texts: one table of their names, and which of them a text may be in.

A language is named as espeak-ng's voice of it: en-us, cmn, ja. Other usual names are aliases.
"""

import unicodedata
from collections.abc import Sequence

from processors.scripts import LATIN, script_of, scripts_of_language

AUTO = "auto"
"""As `preprocess.language`: each utterance has its own. As `preprocess.phone_extractor`: each language has its own."""

# Lower-case names with "-" between their parts.
_ALIASES = {
    **dict.fromkeys(("en", "eng", "english"), "en-us"),
    **dict.fromkeys(("en-uk", "british"), "en-gb"),
    **dict.fromkeys(("zh", "zho", "chi", "cn", "chinese", "mandarin"), "cmn"),
    **dict.fromkeys(("zh-cn", "zh-tw", "zh-sg", "zh-hans", "zh-hant", "zh-hans-cn", "zh-hant-tw"), "cmn"),
    **dict.fromkeys(("jp", "jpn", "ja-jp", "japanese"), "ja"),
    **dict.fromkeys(("zh-hk", "cantonese"), "yue"),
    **dict.fromkeys(("deu", "ger", "de-de", "de-at", "german"), "de"),
    **dict.fromkeys(("fr", "fra", "fre", "french"), "fr-fr"),
    **dict.fromkeys(("spa", "es-es", "spanish"), "es"),
    **dict.fromkeys(("es-mx", "es-ar", "es-co"), "es-419"),
    **dict.fromkeys(("ita", "it-it", "italian"), "it"),
    **dict.fromkeys(("por", "pt-pt", "portuguese"), "pt"),
    **dict.fromkeys(("rus", "ru-ru", "russian"), "ru"),
    **dict.fromkeys(("kr", "kor", "ko-kr", "korean"), "ko"),
    **dict.fromkeys(("nld", "dut", "nl-nl", "dutch"), "nl"),
    **dict.fromkeys(("pol", "pl-pl", "polish"), "pl"),
    **dict.fromkeys(("no", "nor", "nb-no", "norwegian"), "nb"),
    # The only voice with capitals.
    "chr-us-qaaa-x-west": "chr-US-Qaaa-x-west",
}
# ISO 639-1 codes, which other libraries know, where espeak-ng's voice has another.
_ISO_CODES = {"cmn": "zh", "nb": "no"}


def language_name(name: str) -> str:
    """espeak-ng's name of a language, which may be given as an alias, or in other case, as en_US."""
    plain = name.strip().lower().replace("_", "-")
    return _ALIASES.get(plain, plain)


def language_code(name: str) -> str:
    """The ISO 639-1 code of a language, such as en, zh or ja; its ISO 639-3 code if it has no other."""
    base = language_name(name).lower().split("-")[0]
    return _ISO_CODES.get(base, base)


def may_be_in(text: str, languages: Sequence[str]) -> list[str]:
    """Those of `languages` that are written in the scripts of a text; of a text without letters, all of them.

    Latin letters may be foreign words in a text of another script, and decide only where there are no other letters.
    """
    letters = {letter for letter in text if unicodedata.category(letter) in ("Lu", "Ll", "Lt", "Lo")}
    scripts = {script_of(letter) for letter in letters}
    scripts = scripts - {LATIN} or scripts
    return [language for language in languages if scripts <= scripts_of_language(language)]
