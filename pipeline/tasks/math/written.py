"""What a written answer says before any algebra: numbers, lists, bases, times of day, words."""

# ruff: noqa: RUF001 - signs that are no ASCII are what this is about

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from pipeline.tasks.math import units

SIGNS = {
    **dict.fromkeys("\u2212\u2010\u2011\u2013\ufe63\uff0d", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u2005\u2006\u2007\u2008", " "),
    **dict.fromkeys("\u200b\u200e\u200f\u2060\ufeff", ""),
    **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/"},
    **{"π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup "},
    **{"∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm ", "％": "%", "°": r"^\circ"},
    **{"θ": r"\theta ", "，": ", ", "（": "(", "）": ")", "＝": "=", "º": r"^\circ"},
}
SIGNS |= {chr(0xFF10 + i): str(i) for i in range(10)}
TABLE = str.maketrans(SIGNS)
RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
VULGAR = re.compile("([0-9]?)([¼-¾⅐-⅞])")
ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|([0-9a-zA-Z.]+))")
WRAPS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
GAP = r"(?:\\[,;:! ]|\{,\}|~|\s)"
THOUSANDS = re.compile(r"(?<=[0-9])(?:,?\\[,;:! ]|\{,\}|,\{\}|~)+\s*(?=[0-9]{3}(?![0-9]))")
GROUPED = re.compile(r"[-+]?[0-9]{1,3}(?:[ ,][0-9]{3})+(?:\.[0-9]+)?")
COMMAS = re.compile(r"(?<![0-9.,])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9]|,[0-9])")
STYLE = re.compile(r"\\(?:displaystyle|textstyle|left|right|bigg?|Bigg?)(?![a-zA-Z])\s*")
TEXT = re.compile(r"\\(?:text(?:bf|rm|it|sf|tt)?|mbox|mathrm|mathbf|mathit|bf|operatorname)\s*\{")
PERCENT = re.compile(rf"(?<=[0-9}})$]){GAP}*(?:\\?%|\\text\{{\s*percent\s*\}}|percent\b)")
HUNDREDTHS = re.compile(r"(?:%|[Pp]ercent)\W*$")
LEAD = re.compile(
    r"(?:=|\\approx|\\(?:sim|simeq)\b|≈|~(?!~)"
    r"|\b(?:approximately|about|exactly|roughly|equal to)\b)\s*",
    re.IGNORECASE,
)
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
FRACTION = re.compile(rf"([-+]?)\s*{FRAC}")
MIXED = re.compile(rf"([-+]?)\s*([0-9]+)(?:{GAP}+|(?=\\)|\s+and\s+|-(?=[0-9]+/)){FRAC}")
WORD = re.compile(
    r"(?:^|(?<=[\s(]))(?!(?:and|or|sin|cos|tan|log|mod|exp|sqrt|base|inf|infinity|union)\b)"
    r"[A-Za-z][A-Za-z'\u2019]{2,}(?=[\s,.;:!?)]|$)"
)
QUANTITY = re.compile(rf"([-+]?\s*(?:{DECIMAL}|[0-9]+/[0-9]+)) +([a-zA-Z][a-zA-Z ]{{2,}})")
UNIT = rf"(?:\s*\\?%|\s*(?:{units.NAME})(?![A-Za-z])(?:\^\{{?[23]\}}?)?|\s*[aApP]\.?\s?[mM]\b\.?)"
PLACE = re.compile(UNIT)
VALUE = re.compile(  # a number in prose, with its currency and unit
    r"(?<![\w.^])(?:-\s?)?(?:\\?\$|[\u20ac\u00a3])?(?:-\s?)?"
    rf"(?:[0-9]+\s+[0-9]+/[0-9]+|[0-9]+/[0-9]+|[0-9]{{1,2}}:[0-9]{{2}}|{DECIMAL}(?:[eE][-+]?[0-9]+)?"
    rf"(?<!\.))(?:{UNIT})?"
)
BASE = re.compile(
    r"([0-9A-Z]+)\s*(?:_\{?\s*(?:\\text\{)?\s*(\w+?)\s*\}{0,2}|\(?\s*base[ -](\w+)\s*\)?)"
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
CHOICE = re.compile(r"(?:(?:option|choice|answer)\s+)?(?:\(([A-J])\)|([A-J])(?:[).:]|$))\s*(.*)")
DASHES = re.compile(r"[\s\u00a0]+")


SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALED = re.compile(rf"(.*[0-9}}])\s*(?:\\text\{{\s*)?({'|'.join(SCALES)})s?\s*\}}?", re.IGNORECASE)


class Number(NamedTuple):
    value: Fraction
    decimal: bool  # written with a point, so that it may be rounded
    percent: bool


def bare(text: str) -> str:
    """An answer without the signs that only say that it is mathematics; others in LaTeX's words."""
    text = VULGAR.sub(lambda m: f"{m[1]} {unicodedata.normalize('NFKC', m[2])}".strip(), text)
    text = RAISED.sub(lambda m: f"^{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    text = STYLE.sub("", text.translate(TABLE)).replace(r"\varnothing", r"\emptyset").strip()
    before = ""
    while before != text:
        before, text = text, _unwrapped(text)
    return (
        COMMAS.sub(_ungrouped, THOUSANDS.sub("", text))
        if not _open(text)
        else THOUSANDS.sub("", text)
    )


def _ungrouped(match: re.Match[str]) -> str:
    return match[1].replace(",", "")


def _open(text: str) -> bool:
    """Whether a comma in it may part two coordinates: (1,200)."""
    return text[:1] in "([{" or text.startswith(r"\{")


def _unwrapped(text: str) -> str:
    text = text.strip()
    for left, right in WRAPS:
        inner = text[len(left) : len(text) - len(right)]
        if len(text) > len(left + right) and text == f"{left}{inner}{right}" and left not in inner:
            text = inner.strip()
    match = TEXT.match(text)
    if match and text.endswith("}") and _closes(text, match.end()) == len(text) - 1:
        text = text[match.end() : -1].strip()
    if text[:1] == "{" and _closes(text, 1) == len(text) - 1:
        text = text[1:-1].strip()
    if (match := LEAD.match(text)) and match.end() < len(text):
        text = text[match.end() :]
    return text


def _closes(text: str, start: int) -> int:
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return -1


def number(text: str) -> Number | None:
    """The number that the whole of a bare text is."""
    if match := SCALED.fullmatch(text):
        found = number(match[1])
        return found and found._replace(value=found.value * SCALES[match[2].lower()])
    signed = PERCENT.sub("", text).strip()
    percent = signed != text
    if percent and signed.endswith("$") and signed.startswith("$"):
        signed = signed[1:-1].strip()
    text = signed.replace(",", "").replace(" ", "") if GROUPED.fullmatch(signed) else signed
    if match := MIXED.fullmatch(text):
        above, below = _parts(match.groups()[2:])
        if 0 <= above < below:
            value = int(match[2]) + Fraction(above, below)
            return Number(-value if match[1] == "-" else value, False, percent)
        return None
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
    match = CLOCK.fullmatch(text)
    if not match or not (match[2] or match[3]):
        return None
    hour, minute, half = int(match[1]), int(match[2] or 0), (match[3] or "").lower() or None
    if hour > 12 or hour == 0:
        half, hour = ("p", hour - 12) if hour > 12 else ("a", 12)
    return (hour, minute, half) if minute < 60 and hour <= 12 else None


def based(text: str) -> tuple[str, int] | None:
    """Digits and base of a number that names its base."""
    match = BASE.fullmatch(text)
    if not match:
        return None
    name = (match[2] or match[3]).lower()
    base = BASES.get(name) or (int(name) if name.isdecimal() else 0)
    return (match[1].lstrip("0") or "0", base) if base > 1 else None


def choice(text: str) -> tuple[str, str] | None:
    """Letter of a choice, and what stands behind it: (C) 12."""
    match = CHOICE.fullmatch(re.sub(TEXT, "", text).replace("}", "") if "\\text" in text else text)
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
