"""Whether an answer is the gold: by what it says where that decides it, else by algebra.

Numbers, units, bases and times of day are compared here, exactly. math-verify, which knows algebra,
drops units and bases, and takes two numbers whose difference is below 1e-15 for one.
"""

import re
from fractions import Fraction

from pipeline.tasks.math import units, written


def judge(gold: str, answer: str) -> bool | tuple[str, str]:
    """The verdict, or the two texts that math-verify has to compare."""
    gold, answer = written.bare(gold), written.bare(answer)
    if not gold or not answer:
        return False
    if written.words(gold) == written.words(answer):
        return True
    for decide in (_times, _choices, _bases):
        if (found := decide(gold, answer)) is not None:
            return found
    if (chosen := written.choice(answer)) and chosen[1]:  # (B) 5, where 5 is asked for
        return judge(gold, chosen[1])
    gold, answer = _assigned(gold, answer)
    (gold, wanted), (answer, unit) = units.split(gold), units.split(answer)
    factor = Fraction(1)
    if wanted and unit:
        if not units.comparable(wanted, unit):
            return False
        factor = units.factor(unit, wanted)
    return _values(_quantity(gold), _quantity(answer), factor)


def _values(gold: str, answer: str, factor: Fraction) -> bool | tuple[str, str]:
    """Of texts without units; `factor` turns what the answer measures into the gold's unit."""
    wanted, found = written.number(gold), written.number(answer)
    if wanted and found:
        return written.same_number(wanted, found._replace(value=found.value * factor))
    if written.words(gold) == written.words(answer):
        return factor == 1
    if written.prose(answer) or written.prose(gold):
        return False
    if factor == 1 and (listed := _lists(gold, answer)) is not None:
        return listed
    gold, answer = (algebra(x) for x in (gold, answer))
    return (
        gold,
        answer
        if factor == 1
        else rf"\frac{{{factor.numerator}}}{{{factor.denominator}}}({answer})",
    )


def _times(gold: str, answer: str) -> bool | None:
    wanted, found = written.clock(gold), written.clock(answer)
    if wanted is None:
        return None
    if found is None:
        number = re.fullmatch("[0-9]{1,2}", answer)  # 10 for 10 p.m., as for other units
        return None if not wanted[2] else bool(number and wanted[:2] == (int(answer), 0))
    halves = {wanted[2], found[2]} - {None}
    return wanted[:2] == found[:2] and len(halves) < 2


def _choices(gold: str, answer: str) -> bool | None:
    wanted, found = written.choice(gold), written.choice(answer)
    return wanted[0] == found[0] if wanted and found else None


def _bases(gold: str, answer: str) -> bool | None:
    wanted, found = written.based(gold), written.based(answer)
    if wanted and found:
        return wanted == found
    if wanted or found:
        digits, _ = wanted or found or ("", 0)
        other = answer if wanted else gold
        if re.fullmatch("[0-9A-Z]+", other):
            return (other.lstrip("0") or "0") == digits
    return None


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
    return match[1] if match and not re.match("(?:and|or|base|mod)\\b", match[2]) else text


def _lists(gold: str, answer: str) -> bool | None:
    """Lists of numbers, which need no algebra."""
    (left, wanted), (right, found) = written.elements(gold), written.elements(answer)
    golds, answers = ([_element(x) for x in some] for some in (wanted, found))
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
    return written.number(_quantity(units.split(written.bare(text))[0]))


def algebra(text: str) -> str:
    """The text with each number of a list as math-verify reads it: no 3 1/2, no 1.5e3, no unit."""
    opened, parts = written.elements(written.PERCENT.sub("", text))
    if len(parts) == 1 and not opened:
        return _plain(parts[0])
    closed = {"(": ")", "[": "]", r"\{": r"\}", "": ""}[opened]
    return opened + ", ".join(_plain(x) for x in parts) + closed


def _plain(text: str) -> str:
    found = written.number(text)
    if found is None:
        return re.sub(r"\^\s*\{?\\circ\}?", "", text)
    value = found.value
    if value.denominator == 1:
        return str(value)
    return (
        f"{float(value)!r}"
        if found.decimal
        else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    )


def several(gold: str) -> int:
    """How many values a gold lists."""
    return len(written.elements(written.bare(gold))[1])
