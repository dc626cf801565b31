"""Japanese: numbers, dates, times, money and units in characters."""

import re

from processors.normalization.cjk import SIGN, N, groups_of_four, is_code, names_with_digits, one_by_one, split_number
from processors.normalization.engine import Neighbours, Rules, Section, any_of
from processors.normalization.web import WebWords, web_rules

_LARGE = ("", "万", "億", "兆")
_DASH = r"\s?[-–—~～〜]\s?"
# OpenJTalk reads 一二三四 as one thousand two hundred thirty-four, and katakana as they are written.
_CODE_DIGITS = ("ゼロ", "イチ", "ニ", "サン", "ヨン", "ゴ", "ロク", "ナナ", "ハチ", "キュー")
_DECIMALS = "〇一二三四五六七八九"
_CURRENCIES = {
    "¥": "円",
    "JPY": "円",
    "$": "ドル",
    "US$": "米ドル",
    "USD": "ドル",
    "€": "ユーロ",
    "EUR": "ユーロ",
    "£": "ポンド",
    "GBP": "ポンド",
    "₩": "ウォン",
}
_UNITS = {
    "m/s": "メートル毎秒",
    "km": "キロメートル",
    "m": "メートル",
    "cm": "センチメートル",
    "mm": "ミリメートル",
    "km²": "平方キロメートル",
    "m²": "平方メートル",
    "㎡": "平方メートル",
    "m³": "立方メートル",
    "kg": "キログラム",
    "g": "グラム",
    "mg": "ミリグラム",
    "t": "トン",
    "L": "リットル",
    "l": "リットル",
    "ml": "ミリリットル",
    "mL": "ミリリットル",
    "KB": "キロバイト",
    "MB": "メガバイト",
    "GB": "ギガバイト",
    "TB": "テラバイト",
    "Hz": "ヘルツ",
    "kHz": "キロヘルツ",
    "MHz": "メガヘルツ",
    "GHz": "ギガヘルツ",
    "V": "ボルト",
    "W": "ワット",
    "kW": "キロワット",
    "dB": "デシベル",
    "kcal": "キロカロリー",
    "°C": "度",
    "℃": "度",
    "°F": "華氏度",
    "°": "度",
    "%": "パーセント",
}
NEIGHBOURS = Neighbours(after_number=[*_UNITS, *_CURRENCIES])


def cardinal(whole: str) -> str:
    """百五, 千一, 一万千."""
    groups = groups_of_four(whole.lstrip("0"))
    parts = []
    for index, group in enumerate(groups):
        large = _LARGE[len(groups) - 1 - index]
        for size, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
            if digit := group // size % 10:
                parts.append(("" if digit == 1 and name else one_by_one(str(digit))) + name)
        parts.append(large if group else "")
    return "".join(parts) or "零"


def code(text: str) -> str:
    """Each run of digits by itself: ゼロ三、一二三四."""
    return "、".join("".join(_CODE_DIGITS[int(digit)] for digit in run) for run in re.findall("[0-9]+", text))


def number(text: str) -> str:
    is_negative, whole, decimals = split_number(text)
    spoken = code(whole) if is_code(whole) else cardinal(whole)
    return ("マイナス" if is_negative else "") + spoken + (f"点{one_by_one(decimals, _DECIMALS)}" if decimals else "")


def _quantity(text: str) -> str:
    """A number or a range."""
    first, *last = re.split(r"(?<=[0-9])" + _DASH, text)
    return "から".join([number(first), *map(number, last)])


def _date(match: re.Match[str]) -> str:
    if not (1 <= int(match["month"]) <= 12 and 1 <= int(match["day"]) <= 31):
        return match[0]
    return f"{cardinal(match['year'])}年{cardinal(match['month'])}月{cardinal(match['day'])}日"


def _time(match: re.Match[str]) -> str:
    spoken = f"{cardinal(match['hour'])}時"
    if int(match["minute"]) or match["second"]:
        spoken += f"{cardinal(match['minute'])}分"
    return spoken + (f"{cardinal(match['second'])}秒" if match["second"] else "")


def _money(match: re.Match[str]) -> str:
    return f"{_quantity(match['amount'])}{match['scale'] or ''}{_CURRENCIES[match['unit']]}"


_WEB = WebWords(
    signs={
        ".": "ドット",
        "/": "スラッシュ",
        "-": "ハイフン",
        "_": "アンダーバー",
        "@": "アット",
        "?": "クエスチョン",
        "=": "イコール",
        "&": "アンド",
        "%": "パーセント",
        "+": "プラス",
    },
    hashtag="",
    spell=lambda letters: " ".join(letters.upper()),
)
_RANGE = rf"{SIGN}{N}(?:{_DASH}{N})?"
_TIME = r"(?P<hour>[01]?[0-9]|2[0-4])[:：](?P<minute>[0-5][0-9])(?:[:：](?P<second>[0-5][0-9]))?"
_NUMBERS: Rules = [
    (re.compile(r"〒\s?([0-9]{3}-?[0-9]{4})"), lambda m: f"郵便番号{code(m[1])}"),
    (re.compile(r"(?<![0-9])0[0-9]{1,4}-[0-9]{1,4}-[0-9]{3,4}(?![0-9])"), lambda m: code(m[0])),
    (
        re.compile(r"(?<![0-9.])(?P<year>[12][0-9]{3})([-/.])(?P<month>[01]?[0-9])\2(?P<day>[0-3]?[0-9])(?![0-9.])"),
        _date,
    ),
    (re.compile(r"(?<=日)[（(]([月火水木金土日])[）)]"), r"、\1曜日"),
    (re.compile(r"\b([AP])\.?M\.?\s?(?=[0-9])"), lambda m: "午前" if m[1] == "A" else "午後"),
    (re.compile(rf"(?<![0-9:：])({_TIME}){_DASH}(?=[0-9]{{1,2}}[:：][0-9]{{2}})"), lambda m: f"{_time(m)}から"),
    (re.compile(rf"(?<![0-9:：]){_TIME}(?![0-9:：])"), _time),
    (re.compile(r"(?<![0-9])([0-9]+)[:：]([0-9]+)(?![0-9])"), lambda m: f"{number(m[1])}対{number(m[2])}"),
    (re.compile(r"(?<![0-9/])([0-9]+)/([0-9]+)(?![0-9/])"), lambda m: f"{number(m[2])}分の{number(m[1])}"),
    (re.compile("[¼½¾]"), lambda m: {"¼": "四分の一", "½": "二分の一", "¾": "四分の三"}[m[0]]),
    (
        re.compile(rf"(?<![A-Za-z])(?P<unit>{any_of(_CURRENCIES)})\s?(?P<amount>{_RANGE})(?P<scale>[百千万億]+)?"),
        _money,
    ),
    (re.compile(rf"(?P<amount>{_RANGE})(?P<scale>[百千万億]+)?\s?(?P<unit>{any_of(_CURRENCIES)})(?![A-Za-z])"), _money),
    (re.compile(r"(?<=[0-9][%℃円])\s?[-–~～〜]\s?(?=[0-9])"), "から"),
    (re.compile(rf"({_RANGE})\s?km/h"), lambda m: f"時速{_quantity(m[1])}キロメートル"),
    (re.compile(rf"({_RANGE})\s?({any_of(_UNITS)})(?![A-Za-z²³/])"), lambda m: _quantity(m[1]) + _UNITS[m[2]]),
    (re.compile(r"(?<![0-9.])[0-9]+(?:\.[0-9]+){2,}(?![0-9])"), lambda m: "点".join(map(number, m[0].split(".")))),
    (re.compile(r"(?<=[0-9])\s?[×xX*]\s?(?=[0-9])"), "かける"),
    (re.compile(r"(?<=[0-9])\s?-\s?(?=[0-9]+\s?[=＝])"), "引く"),
    names_with_digits(),
    (re.compile(_RANGE), lambda m: _quantity(m[0])),
    (re.compile("[0-9]+"), lambda m: number(m[0])),
]
_SIGNS: Rules = [
    (re.compile(r"(?<!\w)#(?=\w)"), "ハッシュタグ"),
    (re.compile(r"\s?&\s?"), "アンド"),
    (re.compile(r"\s?[=＝]\s?"), "は"),
    (re.compile(r"\s?[+＋]\s?"), "足す"),
    (re.compile(r"\s?÷\s?"), "割る"),
    (re.compile(r"\s?×\s?"), "かける"),
    (re.compile("[%％]"), "パーセント"),
    (re.compile(r"[®™|\\^*_`<>#²³¹⁰⁴-⁹]"), " "),
]


def sections() -> list[Section]:
    return [
        Section(re.compile(r"[A-Za-z0-9][.@:/][A-Za-z]|@"), web_rules(_WEB)),
        Section(re.compile("[0-9¼½¾]"), _NUMBERS),
        Section(re.compile(r"[#&=＝+＋÷×%％®™|\\^*_`<>²³¹⁰⁴-⁹]"), _SIGNS),
    ]
