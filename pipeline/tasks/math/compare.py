"""Whether math-verify calls two answers equal, and their values agree.

It is imported, and so made ready, by the server that the grader's processes are forked from.
"""

import functools
import logging
from typing import Any

import math_verify
import sympy

DIGITS = 1000  # in which exact values are told apart; math-verify takes 1e-15 for nothing
CONFIG = [math_verify.LatexExtractionConfig()]  # no other one: those evaluate text as Python


def parsed(text: str, sign: str) -> Any:
    return math_verify.parse(f"${text}${sign}", CONFIG, parsing_timeout=None)


gold_of = functools.lru_cache(maxsize=4096)(parsed)


def verified(gold: str, answer: str, *signs: str) -> tuple[bool, bool]:
    """Whether they are equal, and whether the answer was understood."""
    wanted, found = gold_of(gold, signs[0]), parsed(answer, signs[1])
    understood = not all(isinstance(x, str) for x in found)
    unit = [imaginary(x) for x in (wanted, found)]
    correct = same(wanted, found) or (unit != [wanted, found] and same(*unit))
    return correct, understood


def same(wanted: Any, found: Any) -> bool:
    equal = math_verify.verify(wanted, found, timeout_seconds=None, allow_set_relation_comp=True)
    return bool(equal) and near(wanted[0], found[0])


def imaginary(answers: list[Any]) -> list[Any]:
    """The answers that math-verify has read, with the root of -1 for the letter i."""

    def replaced(found: Any) -> Any:
        letters = {x: sympy.I for x in found.free_symbols if x.name == "i"}
        return found.subs(letters) if letters else found

    known = sympy.Basic | sympy.MatrixBase
    return [replaced(x) if isinstance(x, known) else x for x in answers]


def near(gold: Any, answer: Any) -> bool:
    """Whether two values that math-verify calls equal are so relative to their size, too.

    Of lists each pair; of formulas the values at one place. What has no value is believed.
    """
    pair = gold, answer
    if all(isinstance(x, sympy.Tuple | sympy.FiniteSet | sympy.MatrixBase) for x in pair):
        golds, answers = (list(x) if isinstance(x, sympy.MatrixBase) else x.args for x in pair)
        if len(golds) != len(answers):
            return True
        if isinstance(gold, sympy.FiniteSet):
            return all(any(near(x, y) for y in answers) for x in golds)
        return all(map(near, golds, answers))
    if not all(isinstance(x, sympy.Expr) for x in pair):
        return True
    letters = sorted(gold.free_symbols | answer.free_symbols, key=str)
    place = {x: sympy.Rational(13 + 2 * i, 7 + i) for i, x in enumerate(letters)}
    left, right = (sympy.N(x.subs(place), 20) for x in pair)
    if not (left.is_number and right.is_number):
        return True
    floats = gold.has(sympy.Float) or answer.has(sympy.Float)
    size = abs(left)
    if floats:
        return bool(abs(left - right) <= min(1e-6, 1e-5 * size))
    gap = abs(sympy.N((gold - answer).subs(place), 15, maxn=DIGITS))
    return bool(gap <= sympy.Float(f"1e-{DIGITS // 2}") * (size or 1))


def ready() -> None:
    """Have grammars and tables made, which would go on the first answer's time."""
    before = logging.root.manager.disable
    logging.disable()
    verified(r"x+\frac{1}{2}", r"\frac{1}{2}+x", "", "")
    logging.disable(before)


ready()
