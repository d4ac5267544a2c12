"""Read a written answer before any algebra: numbers, lists, bases, times of day, words."""

import re
from fractions import Fraction
from typing import NamedTuple

from pipeline.tasks.math import signs, units
from pipeline.tasks.math.signs import GAP, TEXT

GROUPED = re.compile(r"[-+]?[0-9]{1,3}(?:[ ,][0-9]{3})+(?:\.[0-9]+)?")
PERCENT = re.compile(rf"(?<=[0-9}})$]){GAP}*(?:\\?%|\\text\{{\s*percent\s*\}}|percent\b)")
HUNDREDTHS = re.compile(r"(?:%|[Pp]ercent)\W*$")
ASSIGNED = re.compile(r"[a-zA-Z](?:_\{?\w+\}?)?\s*=\s*")

DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
DECIMAL = rf"(?:{DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
TEN = (
    r"\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*"
    r"(?:\{\s*([-+]?[0-9]{1,3})\s*\}|\(?([-+]?[0-9]{1,3})\)?)"
)
FRAC = (
    r"(?:([0-9]+)\s*/\s*([0-9]+)"
    r"|\\[dtc]?frac\s*(?:\{\s*([-+]?[0-9]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9]+)\s*\}|([0-9])))"
)
PLAIN = re.compile(rf"([-+]?)\s*({DECIMAL})(?:[eE]([-+]?[0-9]{{1,3}})|{TEN})?")
REPEATING = re.compile(
    rf"([-+]?)\s*({DIGITS})?\.([0-9]*)\\(?:overline|bar|dot)\s*(?:\{{\s*([0-9]+)\s*\}}|([0-9]))"
)
ORDINAL = re.compile(r"(?<=[0-9])\s*\^?\s*(?:\{|\\(?:text|mathrm)\s*\{)*(?:st|nd|rd|th)\}*$")
FRACTION = re.compile(rf"([-+]?)\s*{FRAC}")
MIXED = re.compile(rf"([-+]?)\s*([0-9]+)(?:{GAP}+|(?=\\)|\s+and\s+|-(?=[0-9]+/)){FRAC}")
WORD = re.compile(
    r"(?:^|(?<=[\s(]))(?!(?:and|or|sin|cos|tan|log|mod|exp|sqrt|base|inf|infinity|union)\b)"
    r"[A-Za-z][A-Za-z'\u2019]{2,}(?=[\s,.;:!?)]|$)"
)
QUANTITY = re.compile(r"(.*?\S)\s+([a-zA-Z][a-zA-Z ]{2,})")
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALED = re.compile(rf"(.*[0-9}}])\s*(?:\\text\{{\s*)?({'|'.join(SCALES)})s?\s*\}}?", re.IGNORECASE)
SCALE = rf"(?:\s*(?:{'|'.join(SCALES)})s?\b)?"
UNIT = rf"(?:\s*\\?%|\s*(?:{units.NAME})(?![A-Za-z])(?:\^\{{?[23]\}}?)?|\s*[aApP]\.?\s?[mM]\b\.?)"
PLACE = re.compile(rf"{SCALE}(?:{UNIT})?")
VALUE = re.compile(  # a number in prose, with its currency and unit
    r"(?<![\w.^])(?:-\s?)?(?:\\?\$|[\u20ac\u00a3])?(?:-\s?)?"
    rf"(?:{signs.PART.pattern}|[0-9]+\s+[0-9]+/[0-9]+|[0-9]+/[0-9]+|[0-9]{{1,2}}:[0-9]{{2}}|{DECIMAL}(?:[eE][-+]?[0-9]+)?"
    rf"(?<!\.)){SCALE}(?:{UNIT})?"
)
BASE = re.compile(
    r"\(?([0-9A-Z]+)\)?\s*(?:_\s*(\w+?)|,?\s*\(?\s*(?:in\s+)?base[\s-]+(\w+)\s*\)?)\s*"
)
BASES = dict(
    zip(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        range(2, 11),
        strict=True,
    )
)
BASES |= {"eleven": 11, "twelve": 12, "sixteen": 16}
CLOCK = re.compile(r"([0-9]{1,2})(?::([0-9]{2}))?\s*(?:([ap])\.?\s?m\.?)?", re.IGNORECASE)
NOON = re.compile(r"(?:12(?::00)?\s*)?\b(noon|midnight)", re.IGNORECASE)
CHOICE = re.compile(r"(?:(?:option|choice|answer)\s+)?(?:\(([A-J])\)|([A-J])(?:[).:]|$))\s*(.*)")
DASHES = re.compile(r"[\s\u00a0]+")


class Number(NamedTuple):
    value: Fraction
    decimal: bool  # written with a point, so that it may be rounded
    percent: bool


def number(text: str) -> Number | None:
    """The number that the whole of a bare text is."""
    if match := SCALED.fullmatch(text):
        found = number(match[1])
        return found and found._replace(value=found.value * SCALES[match[2].lower()])
    signed = PERCENT.sub("", text).strip()
    percent = signed != text
    if percent and signed.endswith("$") and signed.startswith("$"):
        signed = signed[1:-1].strip()
    signed = ORDINAL.sub("", signed)
    text = signed.replace(",", "").replace(" ", "") if GROUPED.fullmatch(signed) else signed
    if match := MIXED.fullmatch(text):
        above, below = _parts(match.groups()[2:])
        if 0 <= above < below:
            value = int(match[2]) + Fraction(above, below)
            return Number(-value if match[1] == "-" else value, False, percent)
        return None
    if match := REPEATING.fullmatch(text):
        whole, once, again = match[2] or "0", match[3], match[4] or match[5]
        value = Fraction(whole.replace(",", "") + "." + (once or "0"))
        value += Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(once))
        return Number(-value if match[1] == "-" else value, False, percent)
    if match := FRACTION.fullmatch(text):
        above, below = _parts(match.groups()[1:])
        if below == 0:
            return None
        value = Fraction(above, below)
        return Number(-value if match[1] == "-" else value, False, percent)
    if match := PLAIN.fullmatch(text):
        value = Fraction(match[2].replace(",", "").rstrip(".") or "0")
        value *= Fraction(10) ** int(match[3] or match[4] or match[5] or 0)
        value = -value if match[1] == "-" else value
        return Number(value, "." in match[2].rstrip("."), percent)
    return None


def _parts(groups: tuple[str | None, ...]) -> tuple[int, int]:
    above, below = groups[0] or groups[2] or groups[3], groups[1] or groups[4] or groups[5]
    return int(above or 0), int(below or 0)  # the pattern has one of each


def hundredths(text: str) -> str:
    """The sign of percent behind the dollars, where math-verify expects it.

    To math-verify `$50$%` equals 50, as problems ask "what percent", and 0.5 and 1/2 too, its
    value; so it does here, for gold and answer alike. 50 without a sign never equals 0.5.
    """
    return "%" if HUNDREDTHS.search(text) else ""


def same_number(gold: Number, answer: Number) -> bool:
    """Exactly, or rounded to six places where a decimal is; a sign of percent may be left out."""
    if close(gold.value, answer.value, gold.decimal or answer.decimal):
        return True
    if gold.percent == answer.percent:
        return False
    left, right = (Fraction(x.value, 100 if x.percent else 1) for x in (gold, answer))
    return close(left, right, gold.decimal or answer.decimal)


def close(gold: Fraction, answer: Fraction, rounded: bool) -> bool:
    """Six places and, below a tenth, six digits: 1e-9 is not 2e-9."""
    if gold == answer:
        return True
    if not rounded or gold == 0:
        return False
    step = Fraction(1, 2_000_000)
    size = abs(gold)
    while size < Fraction(1, 10):
        size, step = size * 10, step / 10
    return abs(gold - answer) <= step


def clock(text: str) -> tuple[int, int, str | None] | None:
    """Hour, minute, and a or p where it says so, of a time of day."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}|\\[,;: ]|~", lambda m: m[1] or " ", text).strip()
    text = NOON.sub(lambda m: "12:00 " + ("p.m." if m[1].lower() == "noon" else "a.m."), text)
    match = CLOCK.fullmatch(text)
    if not match or not (match[2] or match[3]):
        return None
    hour, minute, half = int(match[1]), int(match[2] or 0), (match[3] or "").lower() or None
    if hour > 12 or hour == 0:
        half, hour = ("p", hour - 12) if hour > 12 else ("a", 12)
    return (hour, minute, half) if minute < 60 and hour <= 12 else None


def based(text: str) -> tuple[str, int] | None:
    """Digits and base of a number that names its base."""
    match = BASE.fullmatch(re.sub("[{}]", "", TEXT.sub("", text)))
    if not match:
        return None
    name = (match[2] or match[3]).lower()
    base = BASES.get(name) or (int(name) if name.isdecimal() else 0)
    return (match[1].lstrip("0") or "0", base) if base > 1 else None


def choice(text: str) -> tuple[str, str] | None:
    """Letter of a choice, and what stands behind it: (C) 12."""
    match = CHOICE.fullmatch(re.sub(TEXT, "", text).replace("}", "") if TEXT.search(text) else text)
    return (match[1] or match[2], match[3].strip()) if match else None


def words(text: str) -> str:
    """The text as words alone, to compare by: cases, blanks and the text command say nothing."""
    plain = (
        re.sub(r"\\[,;:! ]|(?<!~)~(?!~)", " ", TEXT.sub("{", text))
        .replace("{", "")
        .replace("}", "")
    )
    plain = DASHES.sub(" ", plain).strip(" .,;:\"'")
    return plain.casefold() if re.search(r"[^\W\d_]{3}", plain) and "\\" not in plain else plain


def prose(text: str) -> bool:
    """Whether words stand in it that no algebra has."""
    return bool(WORD.search(text))


def elements(text: str) -> tuple[str, list[str]]:
    """Brackets of a list ("" of one without) and its elements, however these are parted."""
    text = re.sub(
        r",?\s*(?:\\text\{\s*(?:and|or)\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z]))", ",", text
    )
    opened = ""
    for left, right in (("(", ")"), ("[", "]"), (r"\{", r"\}")):
        if text.startswith(left) and text.endswith(right) and len(text) > len(left + right):
            inner = text[len(left) : -len(right)]
            if len(_split(inner)) > 1 or left == r"\{":
                opened, text = left, inner
    return opened, [x.strip() for x in _split(text)]


def _split(text: str) -> list[str]:
    found, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character in ",;" and depth == 0 and not found[-1].endswith("\\"):
            found.append("")
        else:
            found[-1] += character
    return found
