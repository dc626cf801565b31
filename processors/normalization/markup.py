"""What leaks into pasted text besides words: HTML, Markdown, emoji, digits and letters of other forms."""

import html
import re
import unicodedata

from processors.normalization.engine import Rules, apply

# Only the names of real tags, as "a <b and c> d" is a text, too. SSML's are among them.
_TAGS = (
    "a|abbr|article|aside|audio|b|big|blockquote|body|break|br|button|caption|center|cite|code|dd|del|details|div|dl|dt"
    "|em|emphasis|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|li"
    "|link|main|mark|meta|nav|ol|option|p|pre|prosody|q|s|say-as|section|small|speak|span|strike|strong|sub|summary|sup"
    "|svg|table|tbody|td|tfoot|th|thead|time|tr|tt|u|ul|var|video|voice|wbr"
)
_HTML: Rules = [
    (re.compile(r"<!--(?:(?!<!--).)*?-->|<(script|style)\b[^>]*>(?:(?!<\1).)*?</\1>", re.DOTALL | re.IGNORECASE), ""),
    (re.compile(r"<(?:br|hr|/?(?:p|div|tr|h[1-6]|ul|ol))\b[^<>]*>", re.IGNORECASE), "\n"),
    (re.compile(r"<li\b[^<>]*>", re.IGNORECASE), "\n- "),
    (re.compile(rf"</?(?:{_TAGS})(?:\s+[\w:-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'<>]+))*\s*/?>", re.IGNORECASE), ""),
]
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,8}[0-9]{0,2});")
_MARKDOWN: Rules = [
    (re.compile(r"^[ \t]*(?:```.*|~~~.*|(?:[-*_][ \t]*){3,})$", re.MULTILINE), ""),
    # An image before a link, whose syntax it contains.
    (re.compile(r"!?\[([^\[\]]*)\]\((?:[^()\s]|\([^()\s]*\))*(?:\s+\"[^\"]*\")?\)"), r"\1"),
    (re.compile(r"`+([^`\n]+)`+"), r"\1"),
    (re.compile(r"\*\*(?=\S)((?:(?!\*\*).)+)(?<=\S)\*\*"), r"\1"),
    (re.compile(r"(?<!\w)__(?=\S)((?:(?!__).)+)(?<=\S)__(?!\w)"), r"\1"),
    (re.compile(r"~~(?=\S)((?:(?!~~).)+)(?<=\S)~~"), r"\1"),
    (re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w_])_(?=[^\s_])([^_\n]+?)(?<=\S)_(?![\w_])"), r"\1"),
    # A quotation, but ">5" is a comparison.
    (re.compile(r"^[ \t]*(?:>(?![.0-9$£€=])[ \t]?)+", re.MULTILINE), ""),
]
# Headings and list items often have no mark at their end, and without one would run into the next line.
_OPEN_LINE = re.compile(r"^[ \t]*(?:#{1,6}|[-*+•‣▪●])[ \t]+(.*?)[ \t#]*$", re.MULTILINE)
_END_MARKS = tuple(".!?:;,…。！？：；、")
_EMOJI = re.compile(
    "[\u2600-\u27bf\u2b05-\u2b55\u231a-\u23fa\U0001f000-\U0001faff\u200d\ufe0e\ufe0f\u20e3\U000e0020-\U000e007f]+"
    r"|(?<!\S)(?:[:;]['’]?-?[()DPp]|<3|\^_\^|:['’]\()(?!\S)"
)
_ANY_MARKUP = re.compile(r"[<>&*_`~]|\]\(|^[ \t]*[#+•‣▪●-]", re.MULTILINE)
# Superscripts and fractions.
_WITH_A_MEANING = "⁰¹²³⁴⁵⁶⁷⁸⁹¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"


def strip_markup(text: str, full_stop: str) -> str:
    """The text without HTML and Markdown; `full_stop` ends headings and list items that have no mark."""

    def end_line(line: re.Match[str]) -> str:
        content = line[1].strip()
        return content if not content or content.endswith(_END_MARKS) else content + full_stop

    if not _ANY_MARKUP.search(text):
        return text
    # Text that was escaped twice becomes plain as well, so that nothing is left for a second call.
    while (plain := _ENTITY.sub(_unescape, apply(_HTML, text))) != text:
        text = plain
    while (plain := _OPEN_LINE.sub(end_line, apply(_MARKDOWN, text))) != text:
        text = plain
    return text


def drop_emoji(text: str) -> str:
    """The text without emoji and emoticons: their names, read aloud, would interrupt the sentence."""
    return _EMOJI.sub("", text)


def fold_characters(text: str) -> str:
    """Digits of all scripts and full-width signs in ASCII. Superscripts and fractions have a meaning of their own."""
    if text.isascii():
        return text
    return "".join(_folded(character) for character in text)


def _folded(character: str) -> str:
    if character.isascii():
        return character
    # Full-width forms, except punctuation, which has a meaning of its own in Chinese and Japanese.
    if "\uff01" <= character <= "\uffe6":
        return character if character in "！，．：；？（）" else unicodedata.normalize("NFKC", character)
    if unicodedata.category(character) not in ("Nd", "Nl", "No") or character in _WITH_A_MEANING:
        return character
    digit = unicodedata.digit(character, None)
    return str(digit) if digit is not None else unicodedata.normalize("NFKC", character).strip("().")


def _unescape(entity: re.Match[str]) -> str:
    character = html.unescape(entity[0])
    # Private-use characters stand for inline phones here.
    return re.sub("[\xad\U000f0000-\U0010ffff]", "", character.replace("\xa0", " "))
