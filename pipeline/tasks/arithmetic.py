"""Column addition written out column by column: `378+465?` -> `8+5=13,7+6+1=14,3+4+1=8;#843`.

A correct worker carries; a sloppy one forgets a carry or adds one too many now and then, so its
work holds the right habit beside a wrong one.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from pipeline.config import params
from pipeline.config.models import Habits
from pipeline.config.problems import TaskPrepare
from pipeline.core import seeds
from pipeline.tasks import Checked, Problem


class Prepare(TaskPrepare):
    """Column addition written out column by column, character level."""

    task: Literal["arithmetic"]
    digits: params.Count


def load(prepare: Prepare) -> "Arithmetic":
    return Arithmetic(prepare.digits)


class Arithmetic:
    def __init__(self, digits: int) -> None:
        self.digits = digits

    def alphabet(self) -> str:
        return "0123456789+=,;#?"

    def problems(self, seed: int) -> Iterator[Problem]:
        draw = seeds.generator("arithmetic", seed)
        low, high = 10 ** (self.digits - 1), 10**self.digits
        while True:
            for a, b in draw.integers(low, high, size=(1024, 2)).tolist():
                prompt = f"{a}+{b}?"
                messages = [{"role": "user", "content": prompt}]
                yield Problem("arithmetic", messages, prompt, str(a + b))

    def solution(self, problem: Problem, habits: Habits, draw: np.random.Generator) -> str:
        left, right = problem.prompt.rstrip("?").split("+")
        columns, digits, carry = [], "", 0
        for a, b in zip(reversed(left), reversed(right), strict=True):
            total = int(a) + int(b) + carry
            if draw.random() < habits.off_by_one:
                total += 1
            columns.append(f"{a}+{b}{f'+{carry}' if carry else ''}={total}")
            digits = str(total % 10) + digits
            carry = total // 10
            if carry and draw.random() < habits.drop_carry:
                carry = 0
        return f"{','.join(columns)};#{carry or ''}{digits}"

    def check(self, task: str, response: str, answer: str) -> Checked:
        _, found, tail = response.rpartition("#")
        extracted = tail if found and tail.isdigit() else None
        return Checked(extracted, extracted == answer)
