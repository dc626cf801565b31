"""Text normalizers: what is compared when the words of a text and of its speech are."""

import string
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from processors.languages import language_code
from utils.errors import UserError

NormalizerName = Literal["whisper", "seed-tts-eval"]
_WITHOUT_SPACES = frozenset({"zh", "yue", "ja"})
"""Languages that do not write spaces between words: only characters are counted."""
# zhon.hanzi.punctuation, which Seed-TTS-eval removes together with ASCII's, but for the apostrophe.
_HANZI_PUNCTUATION = (
    "＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､\u3000、〃〈〉《》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰"
    "〾〿–—‘’‛“”„‟…‧﹏﹑﹔·．！？｡。"
)
_PUNCTUATION = dict.fromkeys(map(ord, (_HANZI_PUNCTUATION + string.punctuation).replace("'", "")))


@dataclass(frozen=True)
class Normalizer:
    """Normalizes a text and what was heard.

    `has_words` is false where only characters are counted, without spaces. If `is_mean_of_texts`, the error rate of a
    list is the mean of its texts' rates, not the sum of the errors over that of the words. `backend` is the package
    that does it, with its version; `to_simplified` changes only what was heard.
    """

    name: NormalizerName
    backend: str
    has_words: bool
    is_mean_of_texts: bool
    clean: Callable[[str], str]
    to_simplified: Callable[[str], str] | None = None

    def __call__(self, text: str) -> str:
        cleaned = self.clean(text)
        return cleaned if self.has_words else "".join(cleaned.split())

    def heard(self, transcript: str) -> str:
        """The same of a recognizer's transcript."""
        return self(transcript if self.to_simplified is None else self.to_simplified(transcript))

    def describe(self) -> dict[str, str]:
        """For the report: what was counted, and how."""
        return {
            "name": self.name,
            "backend": self.backend,
            "counted": "words and characters" if self.has_words else "characters without spaces",
            "averaged": "mean of the texts' rates" if self.is_mean_of_texts else "errors of all texts together",
        }


def build_normalizer(language: str, name: NormalizerName = "whisper") -> Normalizer:
    """Build a normalizer for texts in `language`.

    `whisper` is Whisper's: for English it also unifies numbers and contractions. `seed-tts-eval` does what
    Seed-TTS-eval's run_wer.py does: it removes punctuation and, but for Mandarin and Japanese, capitals; Mandarin that
    was heard becomes simplified. Raises UserError if a package for that is missing.
    """
    code = language_code(language)
    has_words = code not in _WITHOUT_SPACES
    if name == "whisper":
        return Normalizer(name, f"transformers {version('transformers')}", has_words, False, _whisper(code))
    simplified, backend = None, "our own"
    if code == "zh":
        try:
            from opencc import OpenCC
        except ImportError as error:
            raise UserError(
                "the normalizer seed-tts-eval needs opencc for Mandarin: pip install 'vallet[zh]'"
            ) from error
        simplified, backend = OpenCC("t2s").convert, f"opencc {version('opencc')}"
    return Normalizer(name, backend, has_words, True, _without_punctuation(has_words), simplified)


def _whisper(code: str) -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    return EnglishTextNormalizer({}) if code == "en" else BasicTextNormalizer()


def _without_punctuation(has_words: bool) -> Callable[[str], str]:
    def clean(text: str) -> str:
        plain = text.translate(_PUNCTUATION)
        return plain.lower() if has_words else plain

    return clean
