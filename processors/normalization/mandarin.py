"""Mandarin: numbers, dates, times, money and units in characters."""

import re

from processors.normalization.cjk import (
    SIGN,
    N,
    groups_of_four,
    is_code,
    names_with_digits,
    one_by_one,
    split_number,
)
from processors.normalization.engine import Neighbours, Rules, Section, any_of, words_before
from processors.normalization.web import WebWords, web_rules

_LARGE = ("", "万", "亿", "万亿")
_DASH = r"\s?[-–—~～〜]\s?"
# Two before what is counted is 两, but not in dates, ranks and names.
_COUNTED = "个只条张本位名次件台辆天年周小分秒点米块元岁吨倍种家人斤公千里杯瓶碗双对头匹座层间套部首封场"
# Telephone numbers say 幺 for one, which 七 could be taken for.
_PHONE_DIGITS = "零幺二三四五六七八九"
_CURRENCIES = {
    "¥": "元",
    "CNY": "元",
    "RMB": "元",
    "$": "美元",
    "US$": "美元",
    "USD": "美元",
    "HK$": "港元",
    "€": "欧元",
    "EUR": "欧元",
    "£": "英镑",
    "GBP": "英镑",
    "JPY": "日元",
    "₩": "韩元",
}
_UNITS = {
    "km/h": "千米每小时",
    "m/s": "米每秒",
    "km": "千米",
    "m": "米",
    "cm": "厘米",
    "mm": "毫米",
    "km²": "平方千米",
    "m²": "平方米",
    "㎡": "平方米",
    "m³": "立方米",
    "kg": "千克",
    "g": "克",
    "mg": "毫克",
    "t": "吨",
    "L": "升",
    "l": "升",
    "ml": "毫升",
    "mL": "毫升",
    "min": "分钟",
    "h": "小时",
    "s": "秒",
    "ms": "毫秒",
    "Hz": "赫兹",
    "kHz": "千赫",
    "MHz": "兆赫",
    "GHz": "吉赫",
    "V": "伏",
    "W": "瓦",
    "kW": "千瓦",
    "kWh": "千瓦时",
    "mAh": "毫安时",
    "dB": "分贝",
    "°C": "摄氏度",
    "℃": "摄氏度",
    "°F": "华氏度",
    "℉": "华氏度",
    "°": "度",
}
NEIGHBOURS = Neighbours(after_number=[*_UNITS, *_CURRENCIES])


def cardinal(whole: str) -> str:
    """一百零五; 两 before 千, 万 and 亿."""
    groups = groups_of_four(whole.lstrip("0"))
    parts: list[str] = []
    for index, group in enumerate(groups):
        large = _LARGE[len(groups) - 1 - index]
        if not group:
            continue
        # A zero stands for those that are left out between two parts.
        gap = "零" if parts and (group < 1000 or not groups[index - 1]) else ""
        parts.append(gap + ("两" if group == 2 and large else _four_digits(group, not parts)) + large)
    return "".join(parts) or "零"


def _four_digits(group: int, is_first: bool) -> str:
    spoken, is_gap = "", False
    for size, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = group // size % 10
        if not digit:
            is_gap = bool(spoken)
            continue
        shown = "两" if digit == 2 and size == 1000 else one_by_one(str(digit))
        # Ten alone is 十, but 一百一十.
        if digit == 1 and size == 10 and not spoken and is_first:
            shown = ""
        spoken += ("零" if is_gap else "") + shown + name
        is_gap = False
    return spoken


def number(text: str, minus: str = "负") -> str:
    is_negative, whole, decimals = split_number(text)
    spoken = one_by_one(whole) if is_code(whole) else cardinal(whole)
    return (minus if is_negative else "") + spoken + (f"点{one_by_one(decimals)}" if decimals else "")


def _quantity(text: str) -> str:
    """A number or a range."""
    first, *last = re.split(r"(?<=[0-9])" + _DASH, text)
    return "到".join([number(first), *map(number, last)])


def _counted(match: re.Match[str]) -> str:
    if (
        match[0] == "2"
        and match.string[match.end() : match.end() + 1] in [*_COUNTED]
        and not words_before(match).endswith("第")
    ):
        return "两"
    return _quantity(match[0])


def _date(match: re.Match[str]) -> str:
    if not (1 <= int(match["month"]) <= 12 and 1 <= int(match["day"]) <= 31):
        return match[0]
    return f"{one_by_one(match['year'])}年{cardinal(match['month'])}月{cardinal(match['day'])}日"


def _time(match: re.Match[str]) -> str:
    hour, minute, second = (match[name] for name in ("hour", "minute", "second"))
    spoken = ("两" if hour.lstrip("0") == "2" else cardinal(hour)) + "点"
    if int(minute) or second:
        spoken += ("零" if minute[0] == "0" else "") + cardinal(minute) + "分" if int(minute) else "零分"
    return spoken + (f"{cardinal(second)}秒" if second else "")


def _percent(match: re.Match[str]) -> str:
    last = f"到百分之{number(match['last'])}" if match["last"] else ""
    amount = number(match["amount"])
    return f"百分之{'一百' if amount == '一百' else amount}{last}"


def _money(match: re.Match[str]) -> str:
    return f"{_quantity(match['amount'])}{match['scale'] or ''}{_CURRENCIES[match['unit']]}"


def _measure(match: re.Match[str]) -> str:
    unit = _UNITS[match["unit"]]
    if match["amount"] == "2":
        return f"两{unit}"
    minus = "零下" if unit in ("摄氏度", "华氏度") else "负"
    return (number(match["amount"], minus) if match["amount"][0] in "-−–" else _quantity(match["amount"])) + unit


_WEB = WebWords(
    signs={
        ".": "点",
        "/": "斜杠",
        "-": "杠",
        "_": "下划线",
        "@": "艾特",
        "?": "问号",
        "=": "等于",
        "&": "和",
        "%": "百分号",
        "+": "加",
    },
    hashtag="",
    spell=lambda letters: " ".join(letters.upper()),
)
_RANGE = rf"{SIGN}{N}(?:{_DASH}{N})?"
_TIME = r"(?P<hour>[01]?[0-9]|2[0-4])[:：](?P<minute>[0-5][0-9])(?:[:：](?P<second>[0-5][0-9]))?"
_NUMBERS: Rules = [
    (
        re.compile(r"(?<![0-9])(?:\+?86[ -]?)?(1[3-9][0-9])[ -]?([0-9]{4})[ -]?([0-9]{4})(?![0-9])"),
        lambda m: one_by_one("".join(m.groups()), _PHONE_DIGITS),
    ),
    (
        re.compile(r"(?<![0-9])(0[0-9]{2,3})-([0-9]{7,8})(?![0-9])"),
        lambda m: f"{one_by_one(m[1], _PHONE_DIGITS)}，{one_by_one(m[2], _PHONE_DIGITS)}",
    ),
    (
        re.compile(r"((?:拨打|致电|热线|电话)(?:是|为|号码)?[：:]?\s?)([0-9]{3,})"),
        lambda m: m[1] + one_by_one(m[2], _PHONE_DIGITS),
    ),
    (
        re.compile(r"((?:号码|编号|房号|密码|验证码|卡号|邮编|航班)(?:是|为)?[：:]?\s?)([0-9]{3,})"),
        lambda m: m[1] + one_by_one(m[2]),
    ),
    (
        re.compile(
            r"(?<![0-9.])(?P<year>[12][0-9]{3})([-/.])(?P<month>[01]?[0-9])\2(?P<day>[0-3]?[0-9])(?![0-9.])[日号]?"
        ),
        _date,
    ),
    (
        re.compile(rf"(?<![0-9])([12][0-9]{{3}}){_DASH}([12][0-9]{{3}})(?=年)"),
        lambda m: f"{one_by_one(m[1])}到{one_by_one(m[2])}",
    ),
    (re.compile(r"(?<![0-9.])([12][0-9]{3})(?=年(?!前|后|间|来|的历史))"), lambda m: one_by_one(m[1])),
    (re.compile(rf"(?<![0-9:：])({_TIME}){_DASH}(?=[0-9]{{1,2}}[:：][0-9]{{2}})"), lambda m: f"{_time(m)}到"),
    (re.compile(rf"(?<![0-9:：]){_TIME}(?![0-9:：])"), _time),
    (re.compile(r"(?<![0-9])([0-9]+)[:：]([0-9]+)(?![0-9])"), lambda m: f"{number(m[1])}比{number(m[2])}"),
    (re.compile(rf"(?P<amount>{SIGN}{N})\s?%?(?:{_DASH}(?P<last>{N}))?\s?%"), _percent),
    (re.compile(r"(?<![0-9/])([0-9]{1,3})/([0-9]{1,3})(?![0-9/])"), lambda m: f"{number(m[2])}分之{number(m[1])}"),
    (
        re.compile("([0-9])?([¼½¾])"),
        lambda m: (f"{number(m[1])}又" if m[1] else "") + {"¼": "四分之一", "½": "二分之一", "¾": "四分之三"}[m[2]],
    ),
    (
        re.compile(rf"(?<![A-Za-z])(?P<unit>{any_of(_CURRENCIES)})\s?(?P<amount>{_RANGE})(?P<scale>[百千万亿]+)?元?"),
        _money,
    ),
    (re.compile(rf"(?P<amount>{_RANGE})(?P<scale>[百千万亿]+)?\s?(?P<unit>{any_of(_CURRENCIES)})(?![A-Za-z])"), _money),
    (re.compile(rf"(?P<amount>{_RANGE})\s?(?P<unit>{any_of(_UNITS)})(?![A-Za-z²³/])"), _measure),
    (re.compile(r"(?<![0-9.])[0-9]+(?:\.[0-9]+){2,}(?![0-9])"), lambda m: "点".join(map(number, m[0].split(".")))),
    (re.compile(r"(?<=[0-9])\s?[×xX*]\s?(?=[0-9])"), "乘"),
    (re.compile(r"(?<=[0-9])\s?-\s?(?=[0-9]+\s?[=＝])"), "减"),
    names_with_digits(),
    (re.compile(_RANGE), _counted),
    (re.compile("[0-9]+"), lambda m: number(m[0])),
]
_SIGNS: Rules = [
    (re.compile(r"#([^#\s]+)#"), r"\1"),
    (re.compile(r"\s?&\s?"), "和"),
    (re.compile(r"\s?[=＝]\s?"), "等于"),
    (re.compile(r"\s?[+＋]\s?"), "加"),
    (re.compile(r"\s?÷\s?"), "除以"),
    (re.compile(r"\s?×\s?"), "乘"),
    (re.compile(r"%"), "百分号"),
    (re.compile(r"(?<=\w)[~～](?=\w)"), "到"),
    (re.compile(r"[®™|\\^*_`<>#²³¹⁰⁴-⁹]"), " "),
]


def sections() -> list[Section]:
    return [
        Section(re.compile(r"[A-Za-z0-9][.@:/][A-Za-z]|@"), web_rules(_WEB)),
        Section(re.compile("[0-9¼½¾]"), _NUMBERS),
        Section(re.compile(r"[#&=＝+＋÷×%~～®™|\\^*_`<>²³¹⁰⁴-⁹]"), _SIGNS),
    ]
