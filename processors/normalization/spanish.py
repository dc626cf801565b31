"""Spanish: numbers, dates, times, money, units and abbreviations in words."""

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
    "enero",
    "febrero",
    "marzo",
    "abril",
    "mayo",
    "junio",
    "julio",
    "agosto",
    "septiembre",
    "octubre",
    "noviembre",
    "diciembre",
)
_SHORT_MONTHS = {name[:3]: name for name in _MONTHS} | {"sept": "septiembre"}
_SHORT_DAYS = {
    "lun": "lunes",
    "mar": "martes",
    "mié": "miércoles",
    "jue": "jueves",
    "vie": "viernes",
    "sáb": "sábado",
    "dom": "domingo",
}
_ABBREVIATIONS = {
    "Sr": "señor",
    "Sra": "señora",
    "Srta": "señorita",
    "Sres": "señores",
    "Dr": "doctor",
    "Dra": "doctora",
    "Ud": "usted",
    "Uds": "ustedes",
    "Vd": "usted",
    "Vds": "ustedes",
    "Prof": "profesor",
    "Dña": "doña",
    "p.ej": "por ejemplo",
    "etc": "etcétera",
    "EE.UU": "Estados Unidos",
    "a.C": "antes de Cristo",
    "d.C": "después de Cristo",
    "pág": "página",
    "págs": "páginas",
    "núm": "número",
    "cap": "capítulo",
    "art": "artículo",
    "vol": "volumen",
    "aprox": "aproximadamente",
    "tel": "teléfono",
    "Tel": "Teléfono",
    "Avda": "avenida",
    "Av": "avenida",
    "máx": "máximo",
    "mín": "mínimo",
}
# Singular and plural.
_UNITS = {
    "km/h": "kilómetro por hora|kilómetros por hora",
    "m/s": "metro por segundo|metros por segundo",
    "km": "kilómetro|kilómetros",
    "m": "metro|metros",
    "cm": "centímetro|centímetros",
    "mm": "milímetro|milímetros",
    "km²": "kilómetro cuadrado|kilómetros cuadrados",
    "m²": "metro cuadrado|metros cuadrados",
    "m³": "metro cúbico|metros cúbicos",
    "kg": "kilogramo|kilogramos",
    "g": "gramo|gramos",
    "mg": "miligramo|miligramos",
    "t": "tonelada|toneladas",
    "l": "litro|litros",
    "L": "litro|litros",
    "ml": "mililitro|mililitros",
    "cl": "centilitro|centilitros",
    "°C": "grado Celsius|grados Celsius",
    "ºC": "grado Celsius|grados Celsius",
    "℃": "grado Celsius|grados Celsius",
    "°F": "grado Fahrenheit|grados Fahrenheit",
    "°": "grado|grados",
    "KB": "kilobyte|kilobytes",
    "MB": "megabyte|megabytes",
    "GB": "gigabyte|gigabytes",
    "TB": "terabyte|terabytes",
    "Hz": "hercio|hercios",
    "kHz": "kilohercio|kilohercios",
    "MHz": "megahercio|megahercios",
    "GHz": "gigahercio|gigahercios",
    "V": "voltio|voltios",
    "W": "vatio|vatios",
    "kW": "kilovatio|kilovatios",
    "kWh": "kilovatio hora|kilovatios hora",
    "dB": "decibelio|decibelios",
    "kcal": "kilocaloría|kilocalorías",
    "h": "hora|horas",
    "min": "minuto|minutos",
    "s": "segundo|segundos",
    "ms": "milisegundo|milisegundos",
    "%": "por ciento|por ciento",
    "‰": "por mil|por mil",
}
_CURRENCIES = {
    "€": "euro|euros|céntimo|céntimos",
    "EUR": "euro|euros|céntimo|céntimos",
    "$": "dólar|dólares|centavo|centavos",
    "US$": "dólar|dólares|centavo|centavos",
    "USD": "dólar|dólares|centavo|centavos",
    "MXN": "peso mexicano|pesos mexicanos|centavo|centavos",
    "£": "libra|libras|penique|peniques",
    "¥": "yen|yenes||",
}
_SCALES = {"M": "millones", "k": "mil"}
_FEMININE = ("hora", "horas", "tonelada", "toneladas", "libra", "libras", "kilocaloría", "kilocalorías")
# Nouns on -a that are masculine.
_MASCULINE = "(?:día|problema|sistema|programa|tema|mapa|idioma|planeta|poema|clima)s?"
NEIGHBOURS = Neighbours(
    after_number=[
        *_UNITS,
        *(name.split()[0] for names in _UNITS.values() for name in names.split("|")),
        *_CURRENCIES,
        *(name for names in _CURRENCIES.values() for name in names.split("|") if name),
        *_SCALES,
        *("millones", "millón", "mil"),
    ],
    months=_MONTHS,
    short_months=list(_SHORT_MONTHS),
    before_name=["Sr", "Sra", "Srta", "Sres", "Dr", "Dra", "Prof", "Dña", "D", "San", "Santa", "señor", "señora"],
    before_number=["pág", "págs", "núm", "cap", "art", "vol"],
)
_LETTERS = "UE|ADN|VIH|URL|FAQ|OMS|IA|USB|CEO|ONG"
_QUEENS = ("Isabel", "María", "Juana", "Cristina", "Margarita", "Catalina", "Victoria")


def number(text: str, noun: str | None = None) -> str:
    """A number with its sign and decimals, in the form that it has before a noun if there is one."""
    is_negative, whole, decimals = split_number(text)
    spoken = cardinal(whole, "es")
    if decimals:
        spoken += f" coma {pairs(decimals, 'es')}"
    elif noun is not None:
        spoken = _before_noun(spoken, noun)
    return f"menos {spoken}" if is_negative else spoken


def _before_noun(spoken: str, noun: str) -> str:
    # A singular noun only after one; elsewhere a word on -a is rather a verb.
    if _is_feminine(noun) and (spoken == "uno" or noun.endswith("s")):
        return re.sub(r"uno$", "una", re.sub(r"(cient|quinient)os\b", r"\1as", spoken))
    return re.sub(r"\buno$", "un", re.sub(r"veintiuno$", "veintiún", spoken))


def _is_feminine(noun: str) -> bool:
    return (
        noun in _FEMININE
        or re.fullmatch(rf"(?!(?:{_MASCULINE})$)[a-záéíóúñü]+as?|vez|veces|noches?|partes?", noun) is not None
    )


def quantity(text: str, noun: str | None = None) -> str:
    return " a ".join(number(part, noun) for part in split_range(text))


def _counted(match: re.Match[str]) -> str:
    """A number before the noun that it counts: un libro, doscientas personas."""
    follows = re.match(
        r"\s(?!(?:de|del|a|al|y|o|e|en|por|con|es|son|fue|que|para|sin|millón|mil)\b)([a-záéíóúñü]+)",
        words_after(match),
    )
    return quantity(match[0], follows[1] if follows else None)


def _time(match: re.Match[str]) -> str:
    hour, minute = int(match["hour"]), match["minute"]
    parts = [number(match["hour"].lstrip("0") or "0", "horas")]
    if minute and int(minute):
        parts += ["cero"] * (minute[0] == "0") + [in_words(int(minute), "es")]
    if match["unit"]:
        parts.append("hora" if hour == 1 else "horas")
    if match["half"]:
        is_morning = match["half"][0].lower() == "a"
        is_evening = not is_morning and 8 <= hour <= 11
        parts.append(f"de la {'mañana' if is_morning else 'noche' if is_evening else 'tarde'}")
        # The stop of p. m. is that of the sentence at the end of a text.
        if match["half"].endswith(".") and not words_after(match).strip():
            return " ".join(parts) + "."
    return " ".join(parts)


def _date(match: re.Match[str]) -> str:
    day, month = int(match["day"]), int(match["month"])
    if not (1 <= day <= 31 and 1 <= month <= 12):
        return match[0]
    return f"{in_words(day, 'es')} de {_MONTHS[month - 1]} de {cardinal(match['year'], 'es')}"


def _money(match: re.Match[str]) -> str:
    singular, plural, part, parts = _CURRENCIES[match["unit"]].split("|")
    amount = match["amount"]
    if match["scale"]:
        return f"{quantity(amount)} {_SCALES[match['scale']]} de {plural}".replace("mil de", "mil")
    is_negative, whole, cents = split_number(amount)
    if len(cents) != 2 or len(split_range(amount)) > 1:
        return _of(quantity(amount, plural), singular if amount == "1" else plural)
    minus = "menos " if is_negative else ""
    small = f"{_before_noun(in_words(int(cents), 'es'), parts)} {part if int(cents) == 1 else parts}"
    if not int(whole):
        return minus + small
    spoken = minus + _of(number(whole, plural), singular if int(whole) == 1 else plural)
    return f"{spoken} con {small}" if int(cents) else spoken


def _of(spoken: str, noun: str) -> str:
    """Millions are nouns, with de: un millón de euros."""
    return f"{spoken} de {noun}" if re.search(r"mill(?:ón|ones)$", spoken) else f"{spoken} {noun}"


def _measure(match: re.Match[str]) -> str:
    singular, plural = _UNITS[match["unit"]].split("|")
    noun = None if match["unit"] in "%‰" else plural
    return f"{quantity(match['amount'], noun)} {singular if match['amount'] in ('1', '-1') else plural}"


def _fraction(match: re.Match[str]) -> str:
    top, bottom, whole = int(match["top"]), int(match["bottom"]), match["whole"]
    if not 2 <= bottom <= 100:
        return f"{cardinal(match['top'], 'es')} sobre {cardinal(match['bottom'], 'es')}"
    follows = re.match(r"\s[a-záéíóúñü]+", words_after(match))
    half = "media" if follows and follows[0].rstrip("s").endswith("a") else "medio"
    if (top, bottom) == (1, 2):
        return f"{number(whole, 'hora' if half == 'media' else '')} y {half}" if whole else half
    part = {2: "medio", 3: "tercio"}.get(bottom) or ordinal(match["bottom"], "es")
    spoken = f"{number(match['top'], '')} {part}{'s' if top > 1 else ''}"
    return f"{number(whole, '')} y {spoken}" if whole else spoken


def _nth(match: re.Match[str]) -> str:
    spoken = ordinal(match[1], "es")
    if match[2] in ("er", ".er"):
        return spoken.removesuffix("o")
    return spoken.removesuffix("o") + "a" if match[2][-1] in "ªa" else spoken


def _roman(match: re.Match[str]) -> str:
    """Felipe sexto, but Alfonso trece; siglo quinto, but siglo veintiuno; capítulo cuatro."""
    value = roman(match[2])
    if not value:
        return match[0]
    if value > 10 or match[1].lower() in ("capítulo", "tomo", "acto", "parte", "volumen"):
        return f"{match[1]} {in_words(value, 'es')}"
    spoken = in_words(value, "es", "ordinal")
    return f"{match[1]} {spoken.removesuffix('o') + 'a' if match[1] in _QUEENS else spoken}"


_WEB = WebWords(
    signs={
        ".": "punto",
        "/": "barra",
        "-": "guion",
        "_": "guion bajo",
        "@": "arroba",
        "?": "signo de interrogación",
        "=": "igual",
        "&": "y",
        "%": "por ciento",
        "+": "más",
    },
    hashtag="almohadilla",
    spell=lambda letters: " ".join(letters.upper()),
    read="com|org|net|info|es|blog|app|co|online",
)
_NAMES: Rules = [
    (re.compile(rf"\b({any_of(_SHORT_DAYS)})\.(?=,?\s[0-9])"), lambda m: _SHORT_DAYS[m[1]]),
    (re.compile(rf"(?<=de )({any_of(_SHORT_MONTHS)})\."), lambda m: _SHORT_MONTHS[m[1]]),
    (re.compile(r"\b([Nn])(?:\.?º|\.?°)\s?(?=[0-9])"), r"\1úmero "),
    (re.compile(r"\b([Cc])/\s?(?=[A-ZÁÉÍÓÚÑ])"), "calle "),
    abbreviations(_ABBREVIATIONS),
    (re.compile(r"\bEE\s?UU\b"), "Estados Unidos"),
    acronyms(_LETTERS),
    (
        re.compile(r"\b([A-ZÁÉÍÓÚÑ][a-záéíóúñ]{3,}|[Ss]iglos?|[Cc]apítulo|[Tt]omo|[Aa]cto|[Pp]arte) ((?!I\b)[IVX]+)\b"),
        _roman,
    ),
]
_TIME = r"(?<![\w.,:])(?P<hour>[01]?[0-9]|2[0-4])"
_HALF = r"(?:\s?(?P<half>[aApP](?:\.\s?[mM]\.|[mM]\b)))"
_NUMBERS: Rules = [
    # Telephone numbers, before numbers whose thousands are spaced.
    (re.compile(r"(?<!\w)\+[0-9][0-9 .()-]{6,}[0-9]"), lambda m: f"más {digit_groups(m[0], 'es')}"),
    (
        re.compile(r"(?<![\w.,+])[6-9][0-9]{2}[ -][0-9]{3}[ -][0-9]{3}(?![\w.,]*[0-9])"),
        lambda m: digit_groups(m[0], "es"),
    ),
    (
        re.compile(r"(?<![\w/])(?P<day>[0-3]?[0-9])[/.-](?P<month>[01]?[0-9])[/.-](?P<year>[12][0-9]{3})(?![\w/])"),
        _date,
    ),
    (re.compile(r"(?<![\w-])(?P<year>[12][0-9]{3})-(?P<month>[01][0-9])-(?P<day>[0-3][0-9])(?![\w-])"), _date),
    *ranges("a", "por"),
    (re.compile(r"(?<![\w.,])([0-9]+)\.([0-9]{1,2})(?![\w.])"), r"\1,\2"),
    (re.compile(rf"{_TIME}:(?P<minute>[0-5][0-9])(?:\s?(?P<unit>h|horas)\b\.?)?{_HALF}?(?![:0-9])"), _time),
    (re.compile(rf"{_TIME}(?P<minute>)(?P<unit>){_HALF}"), _time),
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
    (re.compile(r"(?<![\w.,])([0-9]+)(\.?[ºª]|°(?=\s[a-z])|\.?er\b|\.?[oa]\b)"), _nth),
    (re.compile(rf"(?P<amount>{QUANTITY})\s?(?P<unit>{any_of(_UNITS)})(?![\w²³/])"), _measure),
    names_with_digits(),
    (re.compile(QUANTITY), _counted),
]
_SIGNS: Rules = [
    (re.compile(r"\s?&\s?"), " y "),
    (re.compile(r"§\s?"), "sección "),
    (re.compile(r"(?<=\w)\s?=\s?(?=\w)"), " igual a "),
    (re.compile(r"(?<=\w)\s?\+\s?(?=\w)"), " más "),
    (re.compile(r"\s?×\s?"), " por "),
    (re.compile(r"%"), " por ciento"),
    *leftovers("es"),
]


def sections() -> list[Section]:
    return [
        Section(re.compile(r"\w[.@:/]\w|[#@]"), web_rules(_WEB)),
        Section(re.compile(r"\w\.|[IVX]|[A-Z]{2}|\b[Nn][º°]|\b[Cc]/"), _NAMES),
        Section(re.compile("[0-9¼½¾]"), _NUMBERS),
        Section(re.compile(r"[^\w\s,;:!?¿¡'\"’‘“”«»().…—–-]|[_0-9²³]"), _SIGNS),
    ]
