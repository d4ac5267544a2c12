"""Units and currencies that an answer may carry, each as what it measures and its size in that."""

import itertools
import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    measures: str  # length, length^2, ...
    size: Fraction  # in the dimension's first unit


def _table() -> dict[str, Unit]:
    kinds = {
        "length": "m meter meters metre metres=1 mm millimeter millimeters millimetre millimetres"
        "=1/1000 cm centimeter centimeters centimetre centimetres=1/100 dm decimeter decimeters"
        "=1/10 km kilometer kilometers kilometre kilometres=1000 in inch inches=254/10000 ft foot"
        " feet=3048/10000 yd yard yards=9144/10000 mi mile miles=1609344/1000",
        "mass": "kg kilogram kilograms=1 g gram grams=1/1000 mg milligram milligrams=1/1000000"
        " lb lbs pound pounds=45359237/100000000 oz ounce ounces=45359237/1600000000",
        "time": "s sec secs second seconds=1 ms millisecond milliseconds=1/1000 min mins minute"
        " minutes=60 h hr hrs hour hours=3600 day days=86400 week weeks=604800",
        "years": "year years yr yrs=12 month months=1",
        "volume": "l L liter liters litre litres=1 ml mL milliliter milliliters millilitre"
        " millilitres=1/1000 gal gallon gallons=3785411784/1000000000",
        "speed": "m/s m/sec meters/second meter/second metres/second=1 km/h km/hr kmh kph km/hour"
        " kilometers/hour kilometres/hour=1000/3600 mph miles/hour mile/hour mi/h mi/hr"
        "=1609344/3600000 ft/s feet/second ft/sec=3048/10000",
        "dollars": "dollar dollars usd USD \\$ $=1 cent cents \u00a2=1/100",
        "euros": "euro euros eur EUR \u20ac=1",
        "pounds of money": "\u00a3 gbp GBP=1",
        "yen": "\u00a5 yen jpy JPY=1",
        "rupees": "\u20b9 rupee rupees=1",
        "angle": "^\\circ degree degrees deg=1",
        "celsius": "^\\circC=1",
        "fahrenheit": "^\\circF=1",
        "angle in radians": "rad radian radians=1",
    }
    found = {}
    for measures, text in kinds.items():
        for names, size in re.findall(r"\s*([^=]+)=([0-9/]+)", text):
            found.update(dict.fromkeys(names.split(), Unit(measures, Fraction(size))))
    return found


UNITS = _table()
POUNDS = {UNITS["\u00a3"], UNITS["pounds"]}
NAME = "|".join(re.escape(name) for name in sorted(UNITS, key=len, reverse=True))
POWER = r"(?:\^\{?([23])\}?|([\u00b2\u00b3])|\s+(squared|cubed))"
SQUARE = r"(?:(sq(?:uare|\.)?|cu(?:bic|\.)?)\s+)?"
TEXTS = r"\\(?:text(?:bf|rm|it)?|mbox|mathrm|operatorname)\s*"
SUFFIX = re.compile(
    rf"(?<=[0-9)}}\s.$])\s*(?:\\[,;:! ]|~)*\s*(?:{TEXTS}\{{(?:\s|\\[,;:! ])*)?{SQUARE}"
    rf"(?<![A-Za-z\\])({NAME})(?![A-Za-z(])\.?\s*\}}?{POWER}?\s*\}}?$"
)
DEGREES = re.compile(
    r"(?:\^\s*\{?\s*\\circ\s*\}?|\\degree)(?:\s|\\[,;:! ])*"
    r"(?:\\(?:text|mathrm)\{\s*([CF])\s*\}|([CF])\b)?"
)
TURNS = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")  # whose degrees are no unit
PER = re.compile(r"\s+per\s+|(?<=[a-z])\s*/\s*(?=[a-z])")
RATIO = re.compile(r"\\[dt]?frac\s*" + rf"\{{\s*{TEXTS}\{{\s*([a-z]+)\s*\}}\s*\}}\s*" * 2)
MARKS = re.compile(rf"{TEXTS}|[{{}}]")
PART = re.compile(rf"([0-9]+(?:\.[0-9]+)?)\s*({NAME})(?![A-Za-z])(?:\s|,|and\b)*")
PREFIX = re.compile(r"([-+]?)\s*(\\\$|[$\u20ac\u00a3\u00a5\u20b9])\s*(?=[-+.0-9\\])")


def split(text: str) -> tuple[str, Unit | None]:
    """The text without its unit, and the unit, where it carries one that is known."""
    text = PER.sub("/", RATIO.sub(r"\\text{\1/\2}", text))
    text = DEGREES.sub(lambda m: rf"^\circ{m[1] or m[2] or ''}", text)
    if (match := PREFIX.match(text)) and text.count("$") < 2:
        rest, more = split(match[1] + text[match.end() :])
        return rest, more or UNITS[match[2]]
    match = SUFFIX.search(text)
    if not match or text[: match.start()].count("{") < text[: match.start()].count("}"):
        return text, None
    whole = text[match.start() :]
    left = text[: match.start()].strip()
    bound = (
        left
        and not TURNS.search(left)
        and (left[-1] in "0123456789)}].$" or whole.lstrip().startswith("\\"))
    )
    if not bound or whole.count("{") != whole.count("}"):
        return text, None
    name = UNITS[match[2]]
    word = match[1] or match[5] or ""
    power = int(match[3] or {"\u00b2": 2, "\u00b3": 3}.get(match[4] or "", 0))
    power = power or (2 if word.startswith("sq") else 3 if word.startswith("cu") else 1)
    if power == 1:
        return left, name
    return left, Unit(f"{name.measures}^{power}", name.size**power)


def total(text: str) -> tuple[str, Unit] | None:
    """2 hours 30 minutes: what is measured in parts, in the first of its units."""
    text = re.sub(r"\\[,;: ]|~", " ", MARKS.sub(" ", text)).strip()
    parts, place = [], 0
    while match := PART.match(text, place):
        parts.append((Fraction(match[1]), UNITS[match[2]]))
        place = match.end()
    first = parts[0][1] if len(parts) > 1 and place == len(text) else None
    if first is None or any(unit.measures != first.measures for _, unit in parts):
        return None
    if any(b.size >= a.size for (_, a), (_, b) in itertools.pairwise(parts)):
        return None
    return str(sum(value * unit.size for value, unit in parts) / first.size), first


def comparable(one: Unit, other: Unit) -> bool:
    """Whether they measure the same; pounds may be money or mass."""
    return one.measures == other.measures or {one, other} == POUNDS


def factor(one: Unit, other: Unit) -> Fraction:
    """How many of the other unit one is."""
    return one.size / other.size if one.measures == other.measures else Fraction(1)
