"""Problems, worked solutions to learn from, and answer checkers."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipeline.config.models import Habits
from pipeline.config.problems import TaskPrepare
from pipeline.core.chosen import chosen, file_of
from pipeline.core.errors import UserError

Messages = list[dict[str, str]]


class Problem(NamedTuple):
    task: str
    messages: Messages
    prompt: str  # the problem as plain text
    answer: str


class Checked(NamedTuple):
    extracted: str | None  # the final answer as found in the response; None: there is none
    correct: bool
    reason: str | None = None  # why it could not be graded as usual: timeout, too_long, ...


class Task(Protocol):
    def problems(self, seed: int) -> Iterator[Problem]:
        """Stream of problems, the same for the same seed: endless with possible repeats.

        Problems that are rows of a file come all different, as many as prepare asks for, and
        in the order test, dev, train, for each set may serve other splits.
        """
        ...

    def solution(self, problem: Problem, habits: Habits, draw: np.random.Generator) -> str:
        """A worked solution as a student is meant to write it, with the errors of `habits`."""
        ...

    def check(self, task: str, response: str, answer: str) -> Checked:
        """Grade a response; whatever the model wrote, this returns. `task` is Problem.task."""
        ...

    def alphabet(self) -> str:
        """Every character of problems and solutions: the vocabulary of a character model."""
        ...


def load(prepare: TaskPrepare) -> Task:
    """The task, from pipeline/tasks/NAME, a file or folder."""
    task: Task = chosen("pipeline.tasks", file_of(prepare.task), "load")(prepare)
    return task


def grade(task: Task, name: str, response: str, answer: str, counts: dict[str, Any]) -> Checked:
    """Check a response and count the reason, where there is one, as graded_REASON."""
    checked = task.check(name, response, answer)
    if checked.reason is not None:
        key = f"graded_{checked.reason}"
        counts[key] = counts.get(key, 0) + 1
    return checked


def unlearnable(task: str) -> UserError:
    """The error of a task that has neither worked solutions nor an alphabet to train on."""
    return UserError(
        f"pretrain: task {task!r} has no worked solutions to train on. Give the model steps: 0 and "
        "start from pretrained weights (init kind gguf or hub)."
    )
