"""Whether an answer is the gold: by what it says where that decides it, else by algebra.

Numbers, units, bases and times of day are compared here, exactly. math-verify, which knows algebra,
drops units and bases, and takes two numbers whose difference is below 1e-15 for one.
"""

import re
from fractions import Fraction

from pipeline.tasks.math import units, written
from pipeline.tasks.math.signs import bare

FALLS = re.compile(r"(>=|>|\\geq?(?![a-z]))")
DEGREES = re.compile(r"([0-9.]*)\s*\^\s*\{?\\circ\}?")
RISES = {">": "<", ">=": r"\le", r"\ge": r"\le", r"\geq": r"\le"}


def judge(gold: str, answer: str) -> bool | tuple[str, str]:
    """The verdict, or the two texts that math-verify has to compare."""
    gold, answer = bare(gold), bare(answer)
    if not gold or not answer:
        return False
    if written.words(gold) == written.words(answer):
        return True
    for decide in (_times, _choices, _bases):
        if (verdict := decide(gold, answer)) is not None:
            return verdict
    if (inner := _inner(gold, answer)) != (gold, answer):
        return judge(*inner)
    (gold, wanted), (answer, unit) = (units.total(x) or units.split(x) for x in (gold, answer))
    gold, answer = _radians(gold, wanted, answer), _radians(answer, unit, gold)
    factor = Fraction(1)
    if {wanted, unit} == {units.UNITS["degrees"], units.UNITS["radians"]}:
        wanted = unit = None
    if wanted and unit:
        if not units.comparable(wanted, unit):
            return False
        factor = units.factor(unit, wanted)
    return _values(_quantity(gold), _quantity(answer), factor)


def _values(gold: str, answer: str, factor: Fraction) -> bool | tuple[str, str]:
    """Compare texts without units; `factor` turns what the answer measures into the gold's unit."""
    wanted, answered = written.number(gold), written.number(answer)
    if wanted and answered:
        return written.same_number(wanted, answered._replace(value=answered.value * factor))
    if written.words(gold) == written.words(answer):
        return factor == 1
    if written.prose(answer) or written.prose(gold):
        return False
    if factor == 1 and (listed := _lists(gold, answer)) is not None:
        return listed
    gold, answer = (algebra(_rising(x)) for x in (gold, answer))
    return (
        gold,
        answer
        if factor == 1
        else rf"\frac{{{factor.numerator}}}{{{factor.denominator}}}({answer})",
    )


def _times(gold: str, answer: str) -> bool | None:
    wanted, answered = written.clock(gold), written.clock(answer)
    if wanted is None:
        return None
    if answered is None:
        number = re.fullmatch("[0-9]{1,2}", answer)  # 10 for 10 p.m., as for other units
        return None if not wanted[2] else bool(number and wanted[:2] == (int(answer), 0))
    halves = {wanted[2], answered[2]} - {None}
    return wanted[:2] == answered[:2] and len(halves) < 2


def _choices(gold: str, answer: str) -> bool | None:
    wanted, found = written.choice(gold), written.choice(answer)
    return wanted[0] == found[0] if wanted and found else None


def _bases(gold: str, answer: str) -> bool | None:
    """101_2 = 5 says two numbers, which have to be one; 101 is taken for 101_2."""
    sides = [[_side(x.strip()) for x in text.split("=")] for text in (gold, answer)]
    known = [[x for x in some if x] for some in sides]
    if sides != known or not any(base for some in known for _, base in some):
        return None
    if any(len(some) > 1 and len({_valued(*x) for x in some}) > 1 for some in known):
        return False
    return any(x == y if x[1] and y[1] else x[0] == y[0] for x in known[0] for y in known[1])


def _side(text: str) -> tuple[str, int] | None:
    """Digits and base, 0 where it names none."""
    plain = re.fullmatch("[0-9A-Z]+", text)
    return written.based(text) or ((text.lstrip("0") or "0", 0) if plain else None)


def _valued(digits: str, base: int) -> int | None:
    try:
        return int(digits, base or 10)
    except ValueError:
        return None


def _radians(text: str, unit: units.Unit | None, other: str) -> str:
    """Degrees as radians, where the other value is a multiple of pi."""
    degrees = unit == units.UNITS["degrees"] and "\\pi" in other
    return rf"\frac{{({text}) \pi}}{{180}}" if degrees else text


def _rising(text: str) -> str:
    """5 > x > 2 as 2 < x < 5: math-verify takes the former for no interval."""
    parts = FALLS.split(text)[::-1]
    return " ".join(RISES.get(x, x) for x in parts) if len(parts) == 5 else text


def _inner(gold: str, answer: str) -> tuple[str, str]:
    """Strip what stands before a value: (B) 5 and x = 5, where 5 is asked for."""
    for place, text in enumerate((gold, answer)):
        if (chosen := written.choice(text)) and chosen[1]:
            return (gold, chosen[1]) if place else (chosen[1], answer)
    return _assigned(gold, answer)


def _assigned(gold: str, answer: str) -> tuple[str, str]:
    """x = 5 without `x =`, where the other names no variable."""
    named = [written.ASSIGNED.match(x) for x in (gold, answer)]
    several = [len(written.elements(x)[1]) > 1 or x.count("=") > 1 for x in (gold, answer)]
    if named[1] and not named[0] and not several[1] and "=" not in gold:
        return gold, answer[named[1].end() :]
    if named[0] and not named[1] and not several[0] and "=" not in answer:
        return gold[named[0].end() :], answer
    return gold, answer


def _quantity(text: str) -> str:
    """18 dollars a day: the number. Words that are no known unit are no part of the answer."""
    if written.SCALED.match(text):
        return re.sub(rf"({'|'.join(written.SCALES)})\b.*", r"\1", text)
    text = re.sub(r"(?<=[0-9}])\s*\\(?:text|mbox|mathrm)\s*\{\s*([a-zA-Z ]{2,})\}$", r" \1", text)
    match = written.QUANTITY.fullmatch(text)
    if not match or written.number(match[1]) is None:
        return text
    return text if re.match("(?:and|or|base|mod)\\b", match[2]) else match[1]


def _lists(gold: str, answer: str) -> bool | None:
    """Lists of numbers, which need no algebra."""
    (left, wanted), (right, answered) = written.elements(gold), written.elements(answer)
    golds, answers = ([_element(x) for x in some] for some in (wanted, answered))
    if len(golds) < 2 or None in golds or None in answers or "[" in (left, right):
        return None
    if (left == "(") != (right == "("):
        return None if "" in (left, right) else False  # a point is no set
    pairs = [x for x in golds if x], [x for x in answers if x]
    if left == "(":
        return len(golds) == len(answers) and all(map(written.same_number, *pairs))
    return _covered(*pairs) and _covered(pairs[1], pairs[0])


def _covered(some: list[written.Number], others: list[written.Number]) -> bool:
    return all(any(written.same_number(x, y) for y in others) for x in some)


def _element(text: str) -> written.Number | None:
    return written.number(_quantity(units.split(bare(text))[0]))


def algebra(text: str) -> str:
    """The text with each number of a list as math-verify reads it: no 3 1/2, no 1.5e3, no unit."""
    opened, parts = written.elements(written.PERCENT.sub("", text))
    if len(parts) == 1 and not opened:
        return _plain(parts[0])
    closed = {"(": ")", "[": "]", r"\{": r"\}", "": ""}[opened]
    return opened + ", ".join(_plain(x) for x in parts) + closed


def _plain(text: str) -> str:
    number = written.number(text)
    if number is None:
        turned = r"(\\frac{\1 \\pi}{180})" if units.TURNS.search(text) else r"\1"
        return DEGREES.sub(turned, text)
    value = number.value
    if value.denominator == 1:
        return str(value)
    return (
        f"{float(value)!r}"
        if number.decimal
        else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    )


def several(gold: str) -> int:
    """How many values a gold lists."""
    return len(written.elements(bare(gold))[1])
