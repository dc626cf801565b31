"""French: numbers, dates, times, money, units and abbreviations in words."""

import re

from processors.normalization.engine import (
    Neighbours,
    Rules,
    Section,
    any_of,
    cardinal,
    digit_groups,
    in_words,
    words_after,
)
from processors.normalization.european import (
    FRACTION,
    QUANTITY,
    N,
    abbreviations,
    acronyms,
    leftovers,
    names_with_digits,
    ordinal,
    pairs,
    ranges,
    split_number,
    split_range,
)
from processors.normalization.roman import roman
from processors.normalization.web import WebWords, web_rules

_MONTHS = (
    "janvier",
    "février",
    "mars",
    "avril",
    "mai",
    "juin",
    "juillet",
    "août",
    "septembre",
    "octobre",
    "novembre",
    "décembre",
)
_SHORT_MONTHS = {"janv": "janvier", "févr": "février", "fév": "février", "avr": "avril", "juil": "juillet"} | {
    "sept": "septembre",
    "oct": "octobre",
    "nov": "novembre",
    "déc": "décembre",
}
_SHORT_DAYS = {
    "lun": "lundi",
    "mar": "mardi",
    "mer": "mercredi",
    "jeu": "jeudi",
    "ven": "vendredi",
    "sam": "samedi",
    "dim": "dimanche",
}
_ABBREVIATIONS = {
    "p.ex": "par exemple",
    "c.-à-d": "c'est-à-dire",
    "av.J.-C": "avant Jésus-Christ",
    "apr.J.-C": "après Jésus-Christ",
    "ap.J.-C": "après Jésus-Christ",
    "etc": "et cetera",
    "env": "environ",
    "tél": "téléphone",
    "max": "maximum",
    "min": "minimum",
    "art": "article",
    "chap": "chapitre",
    "vol": "volume",
    "fig": "figure",
    "hab": "habitants",
    "av": "avenue",
}
_TITLES = {"M.": "monsieur", "MM.": "messieurs", "Mme": "madame", "Mmes": "mesdames", "Mlle": "mademoiselle"} | {
    "Dr": "docteur",
    "Dr.": "docteur",
    "Pr": "professeur",
    "Pr.": "professeur",
    "Me": "maître",
    "bd": "boulevard",
    "Bd": "boulevard",
}
# Singular and plural. Feminine units are named apart.
_UNITS = {
    "km/h": "kilomètre par heure|kilomètres par heure",
    "m/s": "mètre par seconde|mètres par seconde",
    "km": "kilomètre|kilomètres",
    "m": "mètre|mètres",
    "cm": "centimètre|centimètres",
    "mm": "millimètre|millimètres",
    "km²": "kilomètre carré|kilomètres carrés",
    "m²": "mètre carré|mètres carrés",
    "m³": "mètre cube|mètres cubes",
    "kg": "kilogramme|kilogrammes",
    "g": "gramme|grammes",
    "mg": "milligramme|milligrammes",
    "t": "tonne|tonnes",
    "l": "litre|litres",
    "L": "litre|litres",
    "ml": "millilitre|millilitres",
    "cl": "centilitre|centilitres",
    "°C": "degré Celsius|degrés Celsius",
    "℃": "degré Celsius|degrés Celsius",
    "°F": "degré Fahrenheit|degrés Fahrenheit",
    "°": "degré|degrés",
    "ko": "kilooctet|kilooctets",
    "Mo": "mégaoctet|mégaoctets",
    "Go": "gigaoctet|gigaoctets",
    "To": "téraoctet|téraoctets",
    "Hz": "hertz|hertz",
    "kHz": "kilohertz|kilohertz",
    "MHz": "mégahertz|mégahertz",
    "GHz": "gigahertz|gigahertz",
    "V": "volt|volts",
    "W": "watt|watts",
    "kW": "kilowatt|kilowatts",
    "kWh": "kilowattheure|kilowattheures",
    "dB": "décibel|décibels",
    "kcal": "kilocalorie|kilocalories",
    "min": "minute|minutes",
    "s": "seconde|secondes",
    "sec": "seconde|secondes",
    "ms": "milliseconde|millisecondes",
    "%": "pour cent|pour cent",
    "‰": "pour mille|pour mille",
}
_CURRENCIES = {
    "€": "euro|euros|centime|centimes",
    "EUR": "euro|euros|centime|centimes",
    "$": "dollar|dollars|cent|cents",
    "USD": "dollar américain|dollars américains|cent|cents",
    "£": "livre|livres|penny|pence",
    "CHF": "franc suisse|francs suisses|centime|centimes",
    "¥": "yen|yens||",
}
_SCALES = {"k": "mille", "M": "millions", "Md": "milliards", "Mds": "milliards"}
_FEMININE = (
    "tonne|seconde|minute|milliseconde|kilocalorie|livre|heure|journée|semaine|année|foi|sœur|mère|personne|femme|fille"
    "|page|place|chambre|bouteille|tasse|pièce|voiture|maison|étoile|rue|ligne|image|vidéo|chanson|question"
    "|réponse|idée"
)
NEIGHBOURS = Neighbours(
    after_number=[
        *_UNITS,
        *(name.split()[0] for names in _UNITS.values() for name in names.split("|")),
        *_CURRENCIES,
        *(name for names in _CURRENCIES.values() for name in names.split("|") if name),
        *_SCALES,
        *("heures", "heure", "h", "millions", "million", "milliards", "milliard", "mille"),
    ],
    months=_MONTHS,
    short_months=list(_SHORT_MONTHS),
    before_name=[*(name.rstrip(".") for name in _TITLES), "monsieur", "madame", "saint", "sainte"],
    before_number=["art", "chap", "vol", "fig", "n°"],
)
_LETTERS = "UE|EU|PME|VIH|IA|JO|ID|FAQ|OGM|QI"
_PARTS = {2: "demi", 3: "tiers", 4: "quart"}


def number(text: str, noun: str = "") -> str:
    """A number with its sign and decimals; with une before a feminine noun."""
    is_negative, whole, decimals = split_number(text)
    spoken = cardinal(whole, "fr")
    if decimals:
        spoken += f" virgule {pairs(decimals, 'fr')}"
    elif re.fullmatch(_FEMININE, noun):
        spoken = re.sub(r"\bun$", "une", spoken)
    return f"moins {spoken}" if is_negative else spoken


def quantity(text: str, noun: str = "") -> str:
    return " à ".join(number(part, noun) for part in split_range(text))


def _is_plural(text: str) -> bool:
    """French counts from two on: 1,5 litre."""
    return int(split_number(split_range(text)[-1])[1]) >= 2


def _time(match: re.Match[str]) -> str:
    minute = int(match["minute"] or 0)
    spoken = f"{number(match['hour'], 'heure')} heure{'s' if int(match['hour']) >= 2 else ''}"
    return spoken + (f" {in_words(minute, 'fr')}" if minute else "")


def _date(match: re.Match[str]) -> str:
    day, month = int(match["day"]), int(match["month"])
    if not (1 <= day <= 31 and 1 <= month <= 12):
        return match[0]
    return f"{'premier' if day == 1 else in_words(day, 'fr')} {_MONTHS[month - 1]} {cardinal(match['year'], 'fr')}"


def _money(match: re.Match[str]) -> str:
    singular, plural, part, parts = _CURRENCIES[match["unit"]].split("|")
    amount = match["amount"]
    if match["scale"]:
        scale = _SCALES[match["scale"]]
        # Before mille, cent and vingt have no s.
        spoken = re.sub(r"(cent|vingt)s$", r"\1", quantity(amount)) + " "
        return _of(spoken + (scale if _is_plural(amount) or scale == "mille" else scale.removesuffix("s")), plural)
    is_negative, whole, cents = split_number(amount)
    if len(cents) != 2 or len(split_range(amount)) > 1:
        return _of(quantity(amount, singular), plural if _is_plural(amount) else singular)
    minus = "moins " if is_negative else ""
    if not int(whole):
        return f"{minus}{in_words(int(cents), 'fr')} {parts if int(cents) > 1 else part}"
    spoken = minus + _of(number(whole, singular), plural if int(whole) > 1 else singular)
    return spoken + (f" {in_words(int(cents), 'fr')}" if int(cents) else "")


def _of(spoken: str, noun: str) -> str:
    """Millions and milliards are nouns, with de: un million d'euros."""
    if not re.search(r"(?:million|milliard)s?$", spoken):
        return f"{spoken} {noun}"
    return f"{spoken} d'{noun}" if noun[0] in "aeiou" else f"{spoken} de {noun}"


def _counted(match: re.Match[str]) -> str:
    """A number, with une before a feminine noun."""
    follows = re.match(r"\s([a-zà-ÿœ]+)", words_after(match))
    return quantity(match[0], follows[1].removesuffix("s") if follows else "")


def _measure(match: re.Match[str]) -> str:
    singular, plural = _UNITS[match["unit"]].split("|")
    return f"{quantity(match['amount'], singular)} {plural if _is_plural(match['amount']) else singular}"


def _fraction(match: re.Match[str]) -> str:
    top, bottom = int(match["top"]), int(match["bottom"])
    if not 2 <= bottom <= 100:
        return f"{cardinal(match['top'], 'fr')} sur {cardinal(match['bottom'], 'fr')}"
    part = _PARTS.get(bottom) or in_words(bottom, "fr", "ordinal")
    spoken = f"{cardinal(match['top'], 'fr')} {part}{'s' if top > 1 and part != 'tiers' else ''}"
    if not match["whole"]:
        return spoken
    return f"{cardinal(match['whole'], 'fr')} et {'demi' if (top, bottom) == (1, 2) else spoken}"


def _nth(value: int, ending: str) -> str:
    """The ordinal with this ending: er, re, nd, nde, e, es."""
    if value == 1:
        return ("première" if ending.startswith(("re", "ère")) else "premier") + ("s" if ending.endswith("s") else "")
    if value == 2 and ending.startswith("nd"):
        return "seconde" if "e" in ending else "second"
    return ordinal(str(value), "fr") + ("s" if ending.endswith("s") else "")


def _roman_ordinal(match: re.Match[str]) -> str:
    value = roman(match[1])
    return _nth(value, match[2]) if value else match[0]


def _roman_cardinal(match: re.Match[str]) -> str:
    value = roman(match[2])
    return f"{match[1]} {in_words(value, 'fr')}" if value else match[0]


_WEB = WebWords(
    signs={
        ".": "point",
        "/": "barre oblique",
        "-": "tiret",
        "_": "tiret bas",
        "@": "arobase",
        "?": "point d'interrogation",
        "=": "égale",
        "&": "et",
        "%": "pour cent",
        "+": "plus",
    },
    hashtag="hashtag",
    spell=lambda letters: " ".join(letters.upper()),
)
_NAMES: Rules = [
    (re.compile(rf"\b({any_of(_SHORT_DAYS)})\.(?=\s[0-9])"), lambda m: _SHORT_DAYS[m[1]]),
    (re.compile(rf"(?<=[0-9]\s)({any_of(_SHORT_MONTHS)})\b\.?"), lambda m: _SHORT_MONTHS[m[1]]),
    (re.compile(rf"(?<!\w)({any_of(_TITLES)})(?=\s[A-ZÀ-Ý])"), lambda m: _TITLES[m[1]]),
    (re.compile(r"\bSt(e?)-(?=[A-ZÀ-Ý])"), r"Saint\1-"),
    (re.compile(r"\bp\.\s?(?=[0-9])"), "page "),
    (re.compile(r"\b([Nn])[°ºo]\s?(?=[0-9])"), r"\1uméro "),
    abbreviations(_ABBREVIATIONS),
    acronyms(_LETTERS),
    (re.compile(r"\b([IVX]+)(ers?|res?|ères?|es?|èmes?|ièmes?)\b"), _roman_ordinal),
    (re.compile(r"\b([A-ZÀ-Ý][a-zà-ÿ]{3,}|[Cc]hapitre|[Tt]ome|[Aa]cte|[Pp]artie) ((?!I\b)[IVX]+)\b"), _roman_cardinal),
]
_HOUR = r"(?<![\w.,:])(?P<hour>[01]?[0-9]|2[0-4])"
_NUMBERS: Rules = [
    # Telephone numbers in pairs, before numbers whose thousands are spaced.
    (
        re.compile(r"(?<![\w.,+])0[1-9](?:[ .-]?[0-9]{2}){4}(?![\w])"),
        lambda m: ", ".join(cardinal(pair, "fr") for pair in re.findall("[0-9]{2}", m[0])),
    ),
    (re.compile(r"(?<!\w)\+[0-9][0-9 .()-]{6,}[0-9]"), lambda m: f"plus {digit_groups(m[0], 'fr')}"),
    (re.compile(r"(?<![\w/])(?P<day>[0-3]?[0-9])[/.](?P<month>[01]?[0-9])[/.](?P<year>[12][0-9]{3})(?![\w/])"), _date),
    (re.compile(r"(?<![\w-])(?P<year>[12][0-9]{3})-(?P<month>[01][0-9])-(?P<day>[0-3][0-9])(?![\w-])"), _date),
    *ranges("à", "fois"),
    (re.compile(r"(?<![\w.,])([0-9]+)\.([0-9]{1,2})(?![\w.])"), r"\1,\2"),
    (re.compile(rf"{_HOUR}\s?(?:h|:(?=[0-9]))\s?(?P<minute>[0-5][0-9])?(?![\w:])"), _time),
    # The years of a decade are not counted, and so have no s: les années quatre-vingt.
    (re.compile(r"(?<=années )([1-9]0)\b"), lambda m: in_words(int(m[1]), "fr").removesuffix("s")),
    (re.compile(r"\bd['’]€"), "d'euros"),
    (
        re.compile(rf"(?P<amount>{QUANTITY})\s?(?P<scale>{any_of(_SCALES)})?\s?(?P<unit>{any_of(_CURRENCIES)})(?!\w)"),
        _money,
    ),
    (re.compile(rf"(?<!\w)(?P<unit>{any_of(_CURRENCIES)})\s?(?P<amount>{N})(?P<scale>)"), _money),
    (
        re.compile("([0-9])?([¼½¾])"),
        lambda m: (f"{m[1]} " if m[1] else "") + {"¼": "1/4", "½": "1/2", "¾": "3/4"}[m[2]],
    ),
    (re.compile(FRACTION), _fraction),
    (
        re.compile(r"(?<![\w.,])([0-9]+)(ers?|res?|ères?|nde?s?|es?|èmes?|ièmes?)\b"),
        lambda m: _nth(int(m[1][-15:]), m[2]),
    ),
    (re.compile(rf"(?P<amount>{QUANTITY})\s?(?P<unit>{any_of(_UNITS)})(?![\w²³/])"), _measure),
    names_with_digits(),
    (re.compile(QUANTITY), _counted),
]
_SIGNS: Rules = [
    (re.compile(r"\s?&\s?"), " et "),
    (re.compile(r"§\s?"), "paragraphe "),
    (re.compile(r"(?<=\w)\s?=\s?(?=\w)"), " égale "),
    (re.compile(r"(?<=\w)\s?\+\s?(?=\w)"), " plus "),
    (re.compile(r"\s?×\s?"), " fois "),
    (re.compile(r"%"), " pour cent"),
    *leftovers("fr"),
]


def sections() -> list[Section]:
    return [
        Section(re.compile(r"\w[.@:/]\w|[#@]"), web_rules(_WEB)),
        Section(
            re.compile(r"\w\.|[IVX]|[A-Z]{2}|\b(?:St|Ste|Mme|Mmes|Mlle|Dr|Pr|Me|[Bb]d)\b|[Nn][°ºo]|[0-9]\s"), _NAMES
        ),
        Section(re.compile("[0-9¼½¾€]"), _NUMBERS),
        Section(re.compile(r"[^\w\s,;:!?'\"’‘“”«»().…—–-]|[_0-9²³]"), _SIGNS),
    ]
