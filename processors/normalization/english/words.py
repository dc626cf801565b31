"""Words of the English rules: abbreviations, months, currencies, units, names with numbers; letters and stops."""

import re

from processors.normalization.engine import one_by_one

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
MONTH_NAMES = {name: name for name in MONTHS} | {name[:3]: name for name in MONTHS} | {"Sept": "September"}
WEEKDAYS = {
    "Mon": "Monday",
    "Tue": "Tuesday",
    "Tues": "Tuesday",
    "Wed": "Wednesday",
    "Thu": "Thursday",
    "Thur": "Thursday",
    "Thurs": "Thursday",
    "Fri": "Friday",
    "Sat": "Saturday",
    "Sun": "Sunday",
}
# Before a name: their stop never ends a sentence.
TITLES = {
    "Mr": "Mister",
    "Mrs": "Missus",
    "Ms": "Miz",
    "Messrs": "Messieurs",
    "Prof": "Professor",
    "Gen": "General",
    "Col": "Colonel",
    "Maj": "Major",
    "Capt": "Captain",
    "Cpt": "Captain",
    "Lt": "Lieutenant",
    "Sgt": "Sergeant",
    "Cpl": "Corporal",
    "Cmdr": "Commander",
    "Adm": "Admiral",
    "Sen": "Senator",
    "Rep": "Representative",
    "Gov": "Governor",
    "Pres": "President",
    "Rev": "Reverend",
    "Hon": "Honorable",
    "Supt": "Superintendent",
    "Mt": "Mount",
    "Ft": "Fort",
}
# Their stop may end a sentence as well.
ABBREVIATIONS = {
    "Jr": "Junior",
    "Sr": "Senior",
    "Inc": "Incorporated",
    "Corp": "Corporation",
    "Co": "Company",
    "Ltd": "Limited",
    "Bros": "Brothers",
    "Ave": "Avenue",
    "Blvd": "Boulevard",
    "Rd": "Road",
    "Ln": "Lane",
    "Hwy": "Highway",
    "Pkwy": "Parkway",
    "Apt": "Apartment",
    "Bldg": "Building",
    "Dept": "Department",
    "dept": "department",
    "Assn": "Association",
    "Univ": "University",
    "Ext": "Extension",
    "ext": "extension",
    "etc": "et cetera",
    "vs": "versus",
    "approx": "approximately",
    "est": "established",
    "Est": "Established",
    "max": "maximum",
    "Max": "Maximum",
    "misc": "miscellaneous",
    "al": "al",
    "viz": "namely",
    "govt": "government",
    "mgmt": "management",
    "incl": "including",
    "excl": "excluding",
}
# Only before a number.
BEFORE_NUMBERS = {
    "No": "Number",
    "no": "number",
    "Nos": "Numbers",
    "nos": "numbers",
    "p": "page",
    "pp": "pages",
    "Fig": "Figure",
    "fig": "figure",
    "Figs": "Figures",
    "vol": "volume",
    "Vol": "Volume",
    "ch": "chapter",
    "Ch": "Chapter",
    "sec": "section",
    "Sec": "Section",
    "eq": "equation",
    "Eq": "Equation",
    "Min": "Minimum",
    "min": "minimum",
    "Rm": "Room",
    "Ste": "Suite",
    "ca": "circa",
    "c": "circa",
}
# One unit, several, one hundredth of it, several hundredths.
CURRENCIES = {
    "US$": ("US dollar", "US dollars", "cent", "cents"),
    "C$": ("Canadian dollar", "Canadian dollars", "cent", "cents"),
    "CA$": ("Canadian dollar", "Canadian dollars", "cent", "cents"),
    "A$": ("Australian dollar", "Australian dollars", "cent", "cents"),
    "AU$": ("Australian dollar", "Australian dollars", "cent", "cents"),
    "NZ$": ("New Zealand dollar", "New Zealand dollars", "cent", "cents"),
    "HK$": ("Hong Kong dollar", "Hong Kong dollars", "cent", "cents"),
    "S$": ("Singapore dollar", "Singapore dollars", "cent", "cents"),
    "R$": ("Brazilian real", "Brazilian reais", "centavo", "centavos"),
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "jeon", "jeon"),
    "₽": ("ruble", "rubles", "kopeck", "kopecks"),
    "₺": ("lira", "lira", "kurush", "kurush"),
    "₿": ("bitcoin", "bitcoins", "", ""),
    "USD": ("US dollar", "US dollars", "cent", "cents"),
    "EUR": ("euro", "euros", "cent", "cents"),
    "GBP": ("British pound", "British pounds", "penny", "pence"),
    "JPY": ("yen", "yen", "sen", "sen"),
    "CHF": ("Swiss franc", "Swiss francs", "centime", "centimes"),
    "CAD": ("Canadian dollar", "Canadian dollars", "cent", "cents"),
    "AUD": ("Australian dollar", "Australian dollars", "cent", "cents"),
    "INR": ("rupee", "rupees", "paisa", "paise"),
    "CNY": ("yuan", "yuan", "fen", "fen"),
    "RMB": ("yuan", "yuan", "fen", "fen"),
    "SEK": ("Swedish krona", "Swedish kronor", "ore", "ore"),
}
# Before a telephone number.
TELEPHONE = {
    "Tel": "Telephone",
    "tel": "telephone",
    "TEL": "telephone",
    **{name: name for name in ("Telephone", "telephone", "Phone", "phone", "Call", "call", "Mobile", "mobile")},
    **{name: name for name in ("Fax", "fax", "WhatsApp", "Hotline", "hotline")},
}
# What a price is for, as in $5/mo.
PER = {
    "mo": "month",
    "yr": "year",
    "wk": "week",
    "hr": "hour",
    "h": "hour",
    "min": "minute",
    "lb": "pound",
    "oz": "ounce",
}
SCALES = {
    "k": "thousand",
    "K": "thousand",
    "m": "million",
    "M": "million",
    "mn": "million",
    "mm": "million",
    "bn": "billion",
    "b": "billion",
    "B": "billion",
    "tn": "trillion",
    "T": "trillion",
    "hundred": "hundred",
    "thousand": "thousand",
    "million": "million",
    "billion": "billion",
    "trillion": "trillion",
}
# One unit and several; the plural of most is made with s.
UNITS = {
    "km/h": ("kilometer per hour", "kilometers per hour"),
    "kph": ("kilometer per hour", "kilometers per hour"),
    "mph": ("mile per hour", "miles per hour"),
    "m/s": ("meter per second", "meters per second"),
    "m/s²": ("meter per second squared", "meters per second squared"),
    "km": ("kilometer", "kilometers"),
    "m": ("meter", "meters"),
    "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"),
    "µm": ("micrometer", "micrometers"),
    "μm": ("micrometer", "micrometers"),
    "nm": ("nanometer", "nanometers"),
    "mi": ("mile", "miles"),
    "yd": ("yard", "yards"),
    "yds": ("yard", "yards"),
    "ft": ("foot", "feet"),
    "km²": ("square kilometer", "square kilometers"),
    "m²": ("square meter", "square meters"),
    "m2": ("square meter", "square meters"),
    "cm²": ("square centimeter", "square centimeters"),
    "m³": ("cubic meter", "cubic meters"),
    "m3": ("cubic meter", "cubic meters"),
    "cm³": ("cubic centimeter", "cubic centimeters"),
    "sq ft": ("square foot", "square feet"),
    "sq. ft": ("square foot", "square feet"),
    "sq mi": ("square mile", "square miles"),
    "ft²": ("square foot", "square feet"),
    "kg": ("kilogram", "kilograms"),
    "g": ("gram", "grams"),
    "mg": ("milligram", "milligrams"),
    "µg": ("microgram", "micrograms"),
    "lb": ("pound", "pounds"),
    "lbs": ("pound", "pounds"),
    "oz": ("ounce", "ounces"),
    "fl oz": ("fluid ounce", "fluid ounces"),
    "L": ("liter", "liters"),
    "l": ("liter", "liters"),
    "ml": ("milliliter", "milliliters"),
    "mL": ("milliliter", "milliliters"),
    "cl": ("centiliter", "centiliters"),
    "gal": ("gallon", "gallons"),
    "tbsp": ("tablespoon", "tablespoons"),
    "tsp": ("teaspoon", "teaspoons"),
    "Hz": ("hertz", "hertz"),
    "kHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"),
    "kB": ("kilobyte", "kilobytes"),
    "KB": ("kilobyte", "kilobytes"),
    "MB": ("megabyte", "megabytes"),
    "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"),
    "kbps": ("kilobit per second", "kilobits per second"),
    "Mbps": ("megabit per second", "megabits per second"),
    "Gbps": ("gigabit per second", "gigabits per second"),
    "V": ("volt", "volts"),
    "kV": ("kilovolt", "kilovolts"),
    "W": ("watt", "watts"),
    "kW": ("kilowatt", "kilowatts"),
    "MW": ("megawatt", "megawatts"),
    "GW": ("gigawatt", "gigawatts"),
    "kWh": ("kilowatt hour", "kilowatt hours"),
    "mAh": ("milliamp hour", "milliamp hours"),
    "mA": ("milliamp", "milliamps"),
    "hp": ("horsepower", "horsepower"),
    "dB": ("decibel", "decibels"),
    "rpm": ("revolution per minute", "revolutions per minute"),
    "bpm": ("beat per minute", "beats per minute"),
    "fps": ("frame per second", "frames per second"),
    "kcal": ("kilocalorie", "kilocalories"),
    "kJ": ("kilojoule", "kilojoules"),
    "psi": ("pound per square inch", "pounds per square inch"),
    "yr": ("year", "years"),
    "yrs": ("year", "years"),
    "hr": ("hour", "hours"),
    "hrs": ("hour", "hours"),
    "h": ("hour", "hours"),
    "min": ("minute", "minutes"),
    "mins": ("minute", "minutes"),
    "sec": ("second", "seconds"),
    "secs": ("second", "seconds"),
    "s": ("second", "seconds"),
    "ms": ("millisecond", "milliseconds"),
    "°C": ("degree Celsius", "degrees Celsius"),
    "℃": ("degree Celsius", "degrees Celsius"),
    "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "℉": ("degree Fahrenheit", "degrees Fahrenheit"),
    "°": ("degree", "degrees"),
    "px": ("pixel", "pixels"),
    "ppm": ("part per million", "parts per million"),
}
RULERS = (
    "Henry|Louis|Charles|George|Edward|William|Richard|James|Elizabeth|Mary|Philip|Ferdinand|Alexander|Nicholas"
    "|Catherine|Peter|Frederick|Wilhelm|Leopold|Albert|Napoleon|Benedict|Pius|Leo|Urban|Innocent|Clement"
    "|Gregory|Boniface|Paul|Ptolemy|Ramesses|Xerxes|Darius|Otto|Rudolf|Ivan|Harald|Gustav|Carl|Haakon|Olav"
    "|Umberto|Felipe|Alfonso|Juan"
)
# Nouns before a number that is written with Roman numerals.
NUMBERED = (
    "World War|Super Bowl|Chapter|Part|Volume|Book|Act|Scene|Section|Article|Title|Type|Phase|Stage|Class|Level|Grade"
    "|Appendix|Table|Figure|Episode|Season|Schedule|Category|Annex|Unit|Lesson|Round|Mark|Legion"
)
# Capital letters that espeak-ng reads as a word, or wrongly, though they are letter names.
SPELLED = (
    "ACL|ACLU|AKA|ALS|APR|ASL|ATP|AWS|DEA|DUI|ECB|ECG|EEG|EKG|EMT|EOF|EPA|ESL|ETF|EULA|EV|FAA|FAQ|IBS|ICU|IMF"
    "|IPO|IQ|ISS|IUD|IoT|NGO|NIH|NYC|NYU|OAP|OB|OED|PTA|SEO|TSA|UAE|UEFA|UPS|USPS|UX|YMCA|MEP"
)
# Letter names that espeak-ng reads well, but whose plural it does not.
SPELLED_IN_PLURAL = "CPU|CV|DJ|DVD|GPU|ID|KPI|LLM|MP|PC|PDF|SSD|VIP|VPN"
# Words that begin a sentence; a stop before them is more than that of an abbreviation.
SENTENCE_STARTS = (
    "The|This|That|These|Those|There|He|She|It|We|They|You|I|His|Her|Its|Our|Their|My|Your|A|An|In|On|At|But|And|So|If"
    "|When|While|After|Before|Then|What|Who|Why|How|Where|Is|Are|Was|Were|Do|Does|Did|No|Yes|Not|For|As|With|From"
)
# Letters with stops that are read as these letters; others are spelled apart, as some would be read as a word.
READ_AS_LETTERS = {"US", "USA", "UK", "UN", "EU", "DC", "BC", "MD", "PO", "AM", "PM"}
_SENTENCE_ENDS = re.compile(rf"\s*$|\s+[\"'“‘(]?(?:{SENTENCE_STARTS})\b")


def spell(letters: str) -> str:
    """The names of letters and digits. A is eh, which espeak-ng reads as the letter: A would be the article."""
    return " ".join("eh" if c in "Aa" else one_by_one(c, "en") if c.isdigit() else c.upper() for c in letters)


def stop(match: re.Match[str]) -> str:
    """The stop of an abbreviation, if it is that of the sentence as well."""
    is_end = match[0].endswith(".") and _SENTENCE_ENDS.match(match.string, match.end())
    return "." if is_end else ""
