"""Problems, worked solutions to learn from, and answer checkers."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, assert_never

import numpy as np

from pipeline import params

Messages = list[dict[str, str]]


class Problem(NamedTuple):
    task: str
    messages: Messages
    prompt: str  # the problem as plain text
    answer: str


class Checked(NamedTuple):
    extracted: str | None  # the final answer as found in the response; None: there is none
    correct: bool


class Task(Protocol):
    def problems(self, seed: int) -> Iterator[Problem]:
        """Endless stream of problems, the same for the same seed; repeats are possible."""
        ...

    def solution(self, problem: Problem, habits: params.Habits, draw: np.random.Generator) -> str:
        """A worked solution as a student is meant to write it, with the errors of `habits`."""
        ...

    def check(self, task: str, response: str, answer: str) -> Checked: ...

    def alphabet(self) -> str:
        """Every character of problems and solutions: the vocabulary of a character model."""
        ...


def load(prepare: params.ArithmeticPrepare | params.ReasoningGymPrepare) -> Task:
    match prepare:
        case params.ArithmeticPrepare():
            from pipeline.tasks.arithmetic import Arithmetic

            return Arithmetic(prepare.digits)
        case params.ReasoningGymPrepare():
            from pipeline.tasks.reasoning_gym import ReasoningGym

            return ReasoningGym(prepare)
        case _:
            assert_never(prepare)
