"""German: numbers, dates, times, money, units and abbreviations in words."""

import re

from processors.normalization.engine import (
    Neighbours,
    Rules,
    Section,
    any_of,
    cardinal,
    digit_groups,
    in_words,
    one_by_one,
    words_after,
    words_before,
)
from processors.normalization.european import (
    DASH,
    FRACTION,
    QUANTITY,
    N,
    abbreviations,
    acronyms,
    leftovers,
    names_with_digits,
    ordinal,
    ranges,
    split_number,
    split_range,
)
from processors.normalization.roman import roman
from processors.normalization.web import WebWords, web_rules

_MONTHS = (
    "Januar",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
)
_SHORT_MONTHS = {name[:3]: name for name in _MONTHS} | {"Sept": "September", "Mrz": "März"}
_WEEKDAYS = {
    "Mo": "Montag",
    "Di": "Dienstag",
    "Mi": "Mittwoch",
    "Do": "Donnerstag",
    "Fr": "Freitag",
    "Sa": "Samstag",
    "So": "Sonntag",
}
_RULERS = (
    "Ludwig|Heinrich|Karl|Friedrich|Wilhelm|Otto|Papst|Benedikt|Johannes|Paul|Pius|Franz|Elisabeth|Georg|Eduard"
    "|Philipp|Katharina|Nikolaus|Alexander|Maximilian|Rudolf|Leopold|Gustav|Napoleon|Innozenz|Gregor|Leo|Harald"
    "|Carl"
)
_ABBREVIATIONS = {
    "z.B": "zum Beispiel",
    "d.h": "das heißt",
    "u.a": "unter anderem",
    "u.U": "unter Umständen",
    "i.d.R": "in der Regel",
    "z.T": "zum Teil",
    "o.ä": "oder ähnlich",
    "v.Chr": "vor Christus",
    "n.Chr": "nach Christus",
    "usw": "und so weiter",
    "etc": "et cetera",
    "bzw": "beziehungsweise",
    "ca": "circa",
    "evtl": "eventuell",
    "ggf": "gegebenenfalls",
    "inkl": "inklusive",
    "exkl": "exklusive",
    "zzgl": "zuzüglich",
    "vgl": "vergleiche",
    "max": "maximal",
    "mind": "mindestens",
    "geb": "geboren",
    "gest": "gestorben",
    "Nr": "Nummer",
    "Abb": "Abbildung",
    "Abs": "Absatz",
    "Art": "Artikel",
    "Bd": "Band",
    "Kap": "Kapitel",
    "Jh": "Jahrhundert",
    "Jhd": "Jahrhundert",
    "MwSt": "Mehrwertsteuer",
    "Tel": "Telefon",
    "Co": "Co",
    "Dr": "Doktor",
    "Prof": "Professor",
    "Hr": "Herr",
    "Hrn": "Herrn",
    "Fr": "Frau",
    "Str": "Straße",
    "St": "Sankt",
    "Pl": "Platz",
}
_LETTERS = "EU|USA|AG|AfD|ARD|EDV|IT|KI|UN|USB|AOK|BIP|EZB|AKW|UKW|ÖPNV|URL|FAQ|ADAC|ICE"
# Singular and plural; feminine nouns have "eine".
_UNITS = {
    "km/h": "Kilometer pro Stunde",
    "m/s": "Meter pro Sekunde",
    "km": "Kilometer",
    "m": "Meter",
    "cm": "Zentimeter",
    "mm": "Millimeter",
    "km²": "Quadratkilometer",
    "m²": "Quadratmeter",
    "qm": "Quadratmeter",
    "m³": "Kubikmeter",
    "kg": "Kilogramm",
    "g": "Gramm",
    "mg": "Milligramm",
    "t": "Tonne|Tonnen",
    "l": "Liter",
    "L": "Liter",
    "ml": "Milliliter",
    "°C": "Grad Celsius",
    "℃": "Grad Celsius",
    "°F": "Grad Fahrenheit",
    "°": "Grad",
    "kB": "Kilobyte",
    "KB": "Kilobyte",
    "MB": "Megabyte",
    "GB": "Gigabyte",
    "TB": "Terabyte",
    "Hz": "Hertz",
    "kHz": "Kilohertz",
    "MHz": "Megahertz",
    "GHz": "Gigahertz",
    "V": "Volt",
    "W": "Watt",
    "kW": "Kilowatt",
    "MW": "Megawatt",
    "kWh": "Kilowattstunde|Kilowattstunden",
    "PS": "P S",
    "dB": "Dezibel",
    "kcal": "Kilokalorie|Kilokalorien",
    "h": "Stunde|Stunden",
    "Std.": "Stunde|Stunden",
    "Std": "Stunde|Stunden",
    "min": "Minute|Minuten",
    "Min.": "Minute|Minuten",
    "Min": "Minute|Minuten",
    "s": "Sekunde|Sekunden",
    "Sek.": "Sekunde|Sekunden",
    "ms": "Millisekunde|Millisekunden",
    "%": "Prozent",
    "‰": "Promille",
}
_CURRENCIES = {
    "€": ("Euro", "Cent"),
    "Euro": ("Euro", "Cent"),
    "EUR": ("Euro", "Cent"),
    "$": ("Dollar", "Cent"),
    "US$": ("US-Dollar", "Cent"),
    "USD": ("US-Dollar", "Cent"),
    "£": ("Pfund", "Pence"),
    "CHF": ("Schweizer Franken", "Rappen"),
    "Fr.": ("Franken", "Rappen"),
    "¥": ("Yen", ""),
}
# Singular and plural.
_SCALES = {
    "Mio.": ("Million", "Millionen"),
    "Mio": ("Million", "Millionen"),
    "Mrd.": ("Milliarde", "Milliarden"),
    "Mrd": ("Milliarde", "Milliarden"),
    "Tsd.": ("Tausend", "Tausend"),
}
NEIGHBOURS = Neighbours(
    after_number=[
        *_UNITS,
        *(name.split()[0] for names in _UNITS.values() for name in names.split("|")),
        *_CURRENCIES,
        *(name for names in _CURRENCIES.values() for name in names if name),
        *_SCALES,
        *(name for names in _SCALES.values() for name in names),
        "Uhr",
    ],
    months=_MONTHS,
    short_months=list(_SHORT_MONTHS),
    before_name=["Dr", "Prof", "Hr", "Hrn", "Fr", "St", "Herr", "Herrn", "Frau"],
    before_number=["Nr", "Abb", "Abs", "Art", "Bd", "Kap"],
    rulers=_RULERS,
)
# The ordinal ends in -n after these, in -e after an article, and otherwise in -r.
_DATIVE = r"(?:[Aa]m|[Ii]m|[Vv]om|[Zz]um|[Zz]ur|[Bb]eim|dem|den|des|bis|jedem|jeden|seinem|ihrem|einem|einer|der)"
_NOMINATIVE = r"(?:[Dd]er|[Dd]ie|[Dd]as|jede|jeder|jedes)"


def number(text: str, one: str = "eins") -> str:
    """A number with its sign and decimals; `one` is how 1 alone is read."""
    is_negative, whole, decimals = split_number(text)
    spoken = one if whole == "1" and not decimals else cardinal(whole, "de")
    if decimals:
        spoken += " Komma " + " ".join(in_words(int(digit), "de") for digit in decimals)
    return f"minus {spoken}" if is_negative else spoken


def quantity(text: str, one: str = "eins") -> str:
    return " bis ".join(number(part, one) for part in split_range(text))


def year(digits: str) -> str:
    first, last = divmod(int(digits), 100)
    if 11 <= first <= 19:
        return f"{in_words(first, 'de')}hundert{in_words(last, 'de') if last else ''}"
    return cardinal(digits, "de")


def _inflected(preceding: str, digits: str) -> str:
    """The ordinal after these words: am dritten, der dritte, dritter."""
    spoken = ordinal(digits, "de")
    # A nominative at the beginning of a sentence is more likely than a genitive.
    if re.search(rf"\b{_NOMINATIVE}\s$", preceding):
        return spoken
    return spoken + ("n" if re.search(rf"\b{_DATIVE}\s$", preceding) else "r")


def _day(match: re.Match[str]) -> str:
    month = match["month"].rstrip(".")
    name = _MONTHS[int(month) - 1] if month.isdigit() else _SHORT_MONTHS.get(month, month)
    spoken = f"{_inflected(words_before(match), match['day'])} {name}"
    return spoken + (f" {year(match['year'])}" if match["year"] else "")


def _ordinal(match: re.Match[str]) -> str:
    preceding = words_before(match)
    is_inflected = re.search(rf"\b(?:{_DATIVE}|{_NOMINATIVE})\s$", preceding)
    return _inflected(preceding, match[1]) if is_inflected else match[0]


def _time(match: re.Match[str]) -> str:
    minute = int(match["minute"] or 0)
    hour = "ein" if match["hour"] in ("1", "01") else in_words(int(match["hour"]), "de")
    return f"{hour} Uhr" + (f" {in_words(minute, 'de')}" if minute else "")


def _money(match: re.Match[str]) -> str:
    name, part = _CURRENCIES[match["unit"]]
    if match["scale"]:
        return f"{_scaled(match)} {name}"
    is_negative, whole, cents = split_number(match["amount"])
    if len(cents) != 2 or len(split_range(match["amount"])) > 1:
        return f"{quantity(match['amount'], 'ein')} {name}"
    minus = "minus " if is_negative else ""
    if not int(whole):
        return f"{minus}{in_words(int(cents), 'de')} {part}"
    return f"{minus}{number(whole, 'ein')} {name}" + (f" {in_words(int(cents), 'de')}" if int(cents) else "")


def _scaled(match: re.Match[str]) -> str:
    """eine Million, zwei Millionen"""
    return f"{quantity(match['amount'], 'eine')} {_SCALES[match['scale']][match['amount'] != '1']}"


def _measure(match: re.Match[str]) -> str:
    singular, _, plural = _UNITS[match["unit"]].partition("|")
    spoken = quantity(match["amount"], "eine" if plural else "ein")
    return f"{spoken} {plural if plural and match['amount'] != '1' else singular}"


def _fraction(match: re.Match[str]) -> str:
    top, bottom = int(match["top"]), int(match["bottom"])
    if not 2 <= bottom <= 100 or top > 99:
        return f"{cardinal(match['top'], 'de')} durch {cardinal(match['bottom'], 'de')}"
    if (top, bottom) == (1, 2):
        return f"{number(match['whole'], 'ein')}einhalb" if match["whole"] else "ein halb"
    name = "halbe" if bottom == 2 else ordinal(match["bottom"], "de").removesuffix("e").capitalize() + "el"
    whole = f"{number(match['whole'])} " if match["whole"] else ""
    return f"{whole}{number(match['top'], 'ein')} {name}"


def _ruler(match: re.Match[str]) -> str:
    value = roman(match[2])
    return f"{match[1]} der {in_words(value, 'de', 'ordinal').capitalize()}" if value else match[0]


def _telephone(text: str) -> str:
    return ("plus " if text[0] == "+" else "") + digit_groups(text, "de")


def _year_or_count(match: re.Match[str]) -> str:
    """Four digits: a year, unless a noun follows that they count."""
    is_dated = re.search(
        r"\b(?:[Jj]ahre?|[Ii]n|[Ss]eit|[Aa]b|[Bb]is|[Uu]m|[Vv]or|[Nn]ach|[Vv]on)\s$", words_before(match)
    )
    is_count = re.match(r"\s[A-ZÄÖÜ]", words_after(match)) and not is_dated
    return cardinal(match[0], "de") if is_count else year(match[0])


_HOUR = r"(?<![\w.,:])(?P<hour>[01]?[0-9]|2[0-4])"
_MONTH = any_of([*_MONTHS, *(f"{name}." for name in _SHORT_MONTHS)])
_WEB = WebWords(
    signs={
        ".": "Punkt",
        "/": "Schrägstrich",
        "-": "Minus",
        "_": "Unterstrich",
        "@": "at",
        "?": "Fragezeichen",
        "=": "gleich",
        "&": "und",
        "%": "Prozent",
        "+": "plus",
    },
    hashtag="Hashtag",
    spell=lambda letters: " ".join(letters.upper()),
)
_NAMES: Rules = [
    # Days before dates, and Freitag before Frau.
    (re.compile(r"\b(Mo|Di|Mi|Do|Fr|Sa|So)\.(?=,|\s[0-9])"), lambda m: _WEEKDAYS[m[1]]),
    (re.compile(r"\b(S)\.(?=\s?[0-9])"), "Seite"),
    abbreviations(_ABBREVIATIONS),
    acronyms(_LETTERS),
    abbreviations({"str": "straße"}, before="(?<=[a-zäöüß])"),
    (re.compile(rf"\b({_RULERS})s?\s([IVX]+)\.?(?!\w)"), _ruler),
]
_NUMBERS: Rules = [
    (re.compile(r"\b(Telefon:?\s)([+0-9][0-9 ()/-]{3,}[0-9])(?!\w)"), lambda m: m[1] + _telephone(m[2])),
    (
        re.compile(r"(?<![\w.,])(?:\+[0-9]{2}[ /-]?|0)[0-9]{2,5}[ /-][0-9]{3,}(?:[ -][0-9]+)*(?!\w)"),
        lambda m: _telephone(m[0]),
    ),
    # Dates before ordinals, as both have a stop.
    (
        re.compile(
            rf"(?<![\w.,])(?P<day>0?[1-9]|[12][0-9]|3[01])\.\s?(?P<month>{_MONTH}|(?:0?[1-9]|1[0-2])\.)"
            r"(?:\s?(?P<year>[12][0-9]{3})\b)?(?![0-9])"
        ),
        _day,
    ),
    (re.compile(r"(?<![\w.,-])(?P<year>[12][0-9]{3})-(?P<month>0[1-9]|1[0-2])-(?P<day>[0-3][0-9])(?![\w-])"), _day),
    (re.compile(r"(?<![\w.,])([0-9]{1,3})\.(?=\s(?:[A-ZÄÖÜ]|und\b|oder\b|bis\b))"), _ordinal),
    (
        re.compile(rf"(?<![\w.,:])([0-9]{{1,2}}){DASH}(?=[0-9]{{1,2}} Uhr)"),
        lambda m: f"{in_words(int(m[1]), 'de')} bis ",
    ),
    *ranges("bis", "mal"),
    (re.compile(rf"{_HOUR}:(?P<minute>[0-5][0-9])(?::00)?(?:\sUhr\b)?(?!:?[0-9])"), _time),
    (re.compile(rf"{_HOUR}(?:\.(?P<minute>[0-5][0-9]))?\sUhr\b"), _time),
    # A point as in English, when the stops of dates are gone.
    (re.compile(r"(?<![\w.,])([0-9]+)\.([0-9]{1,2})(?![\w.])"), r"\1,\2"),
    (re.compile(r"(?<=[0-9]),[-–—]+(?=\s?€)"), ""),
    (re.compile(r"(?<=, )[0-9]{5}(?=\s[A-ZÄÖÜ])"), lambda m: one_by_one(m[0], "de")),
    (
        re.compile(rf"(?P<amount>{QUANTITY})\s?(?P<scale>{any_of(_SCALES)})?\s?(?P<unit>{any_of(_CURRENCIES)})(?!\w)"),
        _money,
    ),
    (re.compile(rf"(?<!\w)(?P<unit>{any_of(_CURRENCIES)})\s?(?P<amount>{N})\s?(?P<scale>{any_of(_SCALES)})?"), _money),
    (re.compile(rf"(?P<amount>{QUANTITY})\s?(?P<scale>{any_of(_SCALES)})(?!\w)"), _scaled),
    (re.compile("([0-9])?½\\s(?=[A-Z])"), lambda m: f"{number(m[1], 'ein')}einhalb " if m[1] else "ein halber "),
    (
        re.compile("([0-9])?([¼½¾⅓⅔])"),
        lambda m: (f"{m[1]} " if m[1] else "") + {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}[m[2]],
    ),
    (re.compile(FRACTION), _fraction),
    (re.compile(rf"(?P<amount>{QUANTITY})\s?(?P<unit>{any_of(_UNITS)})(?![\w²³/])"), _measure),
    (re.compile(r"(?<![\w.,])([0-9]+):([0-9]+)(?![\w:])"), lambda m: f"{number(m[1])} zu {number(m[2])}"),
    (
        re.compile(r"(?<![\w.,])([12][0-9]{2}0|[1-9]0)er\b"),
        lambda m: f"{year(m[1]) if len(m[1]) == 4 else cardinal(m[1], 'de')}er",
    ),
    (
        re.compile(rf"(?<![\w.,-])(1[0-9]{{3}}|20[0-9]{{2}}){DASH}(1[0-9]{{3}}|20[0-9]{{2}})(?![\w-])"),
        lambda m: f"{year(m[1])} bis {year(m[2])}",
    ),
    (re.compile(r"(?<![\w.,])1[1-9][0-9]{2}\b(?![.,][0-9])"), _year_or_count),
    names_with_digits(),
    (re.compile(QUANTITY), lambda m: quantity(m[0])),
]
_SIGNS: Rules = [
    (re.compile(r"\s?&\s?"), " und "),
    (re.compile(r"§\s?"), "Paragraph "),
    (re.compile(r"(?<=\w)\s?=\s?(?=\w)"), " gleich "),
    (re.compile(r"(?<=\w)\s?\+\s?(?=\w)"), " plus "),
    (re.compile(r"\s?[×]\s?"), " mal "),
    (re.compile(r"%"), " Prozent"),
    *leftovers("de"),
]


def sections() -> list[Section]:
    return [
        Section(re.compile(r"\w[.@:/]\w|[#@]"), web_rules(_WEB)),
        Section(re.compile(r"\w\.|[A-Z]{2}|AfD|[IVX]\b"), _NAMES),
        Section(re.compile("[0-9¼½¾⅓⅔]"), _NUMBERS),
        Section(re.compile(r"[^\w\s,;:!?'\"’‘“”„().…—–-]|[_0-9²³]"), _SIGNS),
    ]
