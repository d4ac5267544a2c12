"""Generated problems of reasoning-gym, with the datasets' own checkers.

The checker gets the answer alone, so only datasets that grade by the answer are served. Worked
solutions are made where the question itself can be worked out step by step (chain_sum).
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from pipeline import params, seeds
from pipeline.errors import UserError
from pipeline.params import Habits
from pipeline.tasks import Checked, Problem

BLOCK = 1024  # problems of one generator before a new one is seeded
FINAL = re.compile(r"answer\s*[:=]\s*(.+)", re.IGNORECASE)
EXPRESSION = re.compile(r":\s*([-+\d\s]+?)\s*=\s*$")


class Prepare(params.TaskPrepare):
    """Generated problems with their checkers, datasets in turn."""

    task: Literal["reasoning-gym"]
    datasets: dict[str, dict[str, Any]]  # name: generator settings
    instruction: str  # appended to each question


def load(prepare: Prepare) -> "ReasoningGym":
    return ReasoningGym(prepare)


class ReasoningGym:
    def __init__(self, prepare: Prepare) -> None:
        self.prepare = prepare
        self._checkers: dict[str, Any] = {}

    def alphabet(self) -> str:
        raise UserError(
            "pretrain: reasoning-gym problems have no fixed alphabet for a character model. "
            "Start from pretrained weights (init kind gguf or hub)."
        )

    def problems(self, seed: int) -> Iterator[Problem]:
        """The datasets in turn, endlessly."""
        streams = {name: self._stream(name, seed) for name in self.prepare.datasets}
        while True:
            for name, stream in streams.items():
                entry = next(stream)
                question = str(entry["question"])
                content = f"{question}\n{self.prepare.instruction}"
                messages = [{"role": "user", "content": content}]
                yield Problem(name, messages, question, str(entry["answer"]))

    def _stream(self, name: str, seed: int) -> Iterator[dict[str, Any]]:
        block = 0
        while True:
            # below 2**31 and far apart: a dataset seeds entry i with its own seed + i
            start = seeds.number("reasoning-gym", name, seed, block) % 2**31
            dataset = self._dataset(name, seed=start, size=BLOCK)
            for index in range(BLOCK):
                yield dataset[index]
            block += 1

    def _dataset(self, name: str, **settings: int) -> Any:
        import reasoning_gym  # about 2 s: it imports every dataset

        try:
            return reasoning_gym.create_dataset(name, **self.prepare.datasets[name], **settings)
        except (ValueError, TypeError, AssertionError) as error:
            raise UserError(
                f"prepare.datasets.{name}: {error}. See reasoning-gym's list of datasets and "
                "their settings."
            ) from error

    def solution(self, problem: Problem, habits: Habits, draw: np.random.Generator) -> str:
        """Running sums, a line a step, then the answer. Habits have no meaning here."""
        found = EXPRESSION.search(problem.prompt) if problem.task == "chain_sum" else None
        if found is None or habits != Habits():
            raise UserError(
                f"pretrain: no worked solutions with habits {habits} for {problem.task!r}. Leave "
                "it out of the model's datasets, and habits at zero."
            )
        terms = re.findall(r"([+-]?)\s*(\d+)", found[1])
        total = int(terms[0][0] + terms[0][1])
        lines = []
        for sign, number in terms[1:]:
            result = total + int(sign + number)
            lines.append(f"{total} {sign} {number} = {result}")
            total = result
        return "\n".join([*lines, f"Answer: {total}"])

    def check(self, task: str, response: str, answer: str) -> Checked:
        """The text after the last `Answer:`, graded by the dataset; 1.0 is correct."""
        found = FINAL.findall(response)
        if not found:
            return Checked(None, False)
        extracted = found[-1].strip().strip("*`$ ").rstrip(".").strip()
        if task not in self._checkers:
            self._checkers[task] = self._dataset(task, seed=0, size=1)
        score = self._checkers[task].score_answer(extracted, entry={"answer": answer})
        return Checked(extracted, bool(score == 1.0))
