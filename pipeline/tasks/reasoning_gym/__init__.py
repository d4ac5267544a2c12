"""Generated problems of reasoning-gym, with the datasets' own checkers.

A process of its own (server.py) makes problems and scores answers: it has one hash seed, as some
datasets draw from sets of strings, and it can be killed, as some scorers hand what the model wrote
to sympy. Before the first problem of a dataset is drawn, the dataset is proved; docs/tasks.md lists
which pass. Where a scorer reads more of an entry than its answer, column `answer` holds it as JSON.
Worked solutions are made where the question can be worked out step by step (chain_sum).
"""

import json
import os
import re
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from pipeline.config.models import Habits
from pipeline.config.problems import TaskPrepare
from pipeline.core import seeds
from pipeline.core.errors import UserError
from pipeline.tasks import Checked, Problem
from pipeline.tasks.reasoning_gym.answers import MARK, entry_of, finals
from pipeline.tasks.reasoning_gym.client import worker

BLOCK = 1024  # problems of one generator before a new one is seeded
PROVED = 5  # problems that a dataset is proved on
SEARCHED = 64  # problems among which another answer is looked for
LONGEST = 20_000  # characters of a final answer; no dataset's own has 2,000
LOOKED = 3.0  # seconds of the processor to look through a dataset
SECONDS = 20.0  # for the scores of one answer
NONSENSE = "zebra"
PROBES = (NONSENSE, "", "0", "[1, 2]", "a b\nc d")  # to see what a scorer reads
EXPRESSION = re.compile(r":\s*([-+\d\s]+?)\s*=\s*$")


class Prepare(TaskPrepare):
    """Generated problems with their checkers, datasets in turn."""

    task: Literal["reasoning-gym"]
    datasets: dict[str, dict[str, Any]]  # name: generator settings
    instruction: str  # appended to each question


def load(prepare: Prepare) -> "ReasoningGym":
    return ReasoningGym(prepare)


class ReasoningGym:
    def __init__(self, prepare: Prepare) -> None:
        self.prepare = prepare
        self._read: dict[str, list[str]] = {}  # by dataset, what its scorer reads of an entry

    def alphabet(self) -> str:
        raise UserError(
            "pretrain: reasoning-gym problems have no fixed alphabet for a character model. "
            "Start from pretrained weights (init kind gguf or hub)."
        )

    def problems(self, seed: int) -> Iterator[Problem]:
        """The datasets in turn, endlessly. Raises UserError for one that does not prove itself."""
        for name in self.prepare.datasets:
            self.prove_set(name, seed)
        streams = {name: self._stream(name, seed) for name in self.prepare.datasets}
        while True:
            for name, stream in streams.items():
                entry = next(stream)
                question = str(entry["question"])
                content = f"{question}\n{self.prepare.instruction}"
                messages = [{"role": "user", "content": content}]
                yield Problem(name, messages, question, self._stored(name, entry))

    def _stream(self, name: str, seed: int) -> Iterator[dict[str, Any]]:
        block = 0
        while True:
            for index in range(BLOCK):
                entry = self._entry(name, _start(name, seed, block), index)
                self._own(name, entry)
                yield entry
            block += 1

    def prove_set(self, name: str, seed: int) -> None:
        """Raise UserError unless the dataset is a function of its seed and grades as it has to."""
        first = _start(name, seed, 0)
        entries = [self._entry(name, first, index) for index in range(PROVED)]
        for what, settings in (
            ("read twice", {}),
            ("read from a larger pool", {"size": 2 * BLOCK}),
        ):
            for index in reversed(range(PROVED)):
                if self._entry(name, first, index, copy=what, **settings) != entries[index]:
                    raise refused(name, f"problem {index} is another one when {what}")
        self._make(name, "look", seed=first, size=BLOCK, count=BLOCK, budget=LOOKED)
        answers = [entry["answer"] for entry in entries]
        for index in range(PROVED, SEARCHED):
            if len(set(answers)) > 1:
                break
            answers.append(self._entry(name, first, index)["answer"])
        self._read[name] = self._fields(name, entries[0], answers)
        for entry in entries:
            self._own(name, entry)
            others = list(dict.fromkeys(x for x in answers if x != entry["answer"]))[:3]
            stored = self._stored(name, entry)
            if all(self._correct(name, x, stored) for x in others or [NONSENSE]):
                other = (others or [NONSENSE])[0][:100]
                raise refused(name, f"its scorer calls {other!r} right for {entry['answer']!r}")

    def _fields(self, name: str, entry: dict[str, Any], answers: list[str]) -> list[str]:
        """The fields of an entry that its scorer reads besides the answer."""
        read: set[str] = set()
        for text in (*answers[:2], *PROBES):
            read |= set(self._scores(name, entry, [text]).get("read", ()))
        return sorted(read & entry.keys() - {"answer"})

    def _own(self, name: str, entry: dict[str, Any]) -> None:
        found = self.check(name, f"Answer: {entry['answer']}", self._stored(name, entry))
        if not found.correct:
            shown = f"{entry['answer'][:100]!r}" + (f" ({found.reason})" if found.reason else "")
            raise refused(name, f"its scorer calls its own answer wrong: {shown}")

    def _correct(self, name: str, answer: str, stored: str) -> bool:
        return self.check(name, f"Answer: {answer}", stored).correct

    def _stored(self, name: str, entry: dict[str, Any]) -> str:
        """Column `answer`: the answer, or what the scorer reads of the entry."""
        if not self._read[name]:
            return str(entry["answer"])
        kept = {field: entry[field] for field in ("answer", *self._read[name])}
        return json.dumps({MARK: entry[MARK], **kept})

    def _entry(self, name: str, seed: int, index: int, **more: Any) -> dict[str, Any]:
        settings = {"seed": seed, "size": BLOCK, **more}
        entry: dict[str, Any] = self._make(name, "entry", index=index, **settings)["entry"]
        if not isinstance(entry["answer"], str):
            raise refused(name, f"it has no answer of its own: found {entry['answer']!r}")
        return entry

    def _make(self, name: str, do: str, copy: str = "", **request: Any) -> dict[str, Any]:
        settings = {key: request.pop(key) for key in ("seed", "size")}
        settings = {**self.prepare.datasets[name], **settings}
        reply = worker(os.getpid()).ask(None, do, name, settings, copy=copy, **request)
        if reply.get("created") is False:
            raise UserError(
                f"prepare.datasets.{name}: {reply['error']}. See reasoning-gym's list of datasets "
                "and their settings."
            )
        if "error" in reply:
            raise refused(name, reply["error"])
        return reply

    def _scores(self, name: str, entry: dict[str, Any], texts: list[str]) -> dict[str, Any]:
        settings = {**self.prepare.datasets[name], "seed": 0, "size": 1}
        return worker(os.getpid()).ask(
            SECONDS, "score", name, settings, copy="", entry=entry, texts=texts
        )

    def solution(self, problem: Problem, habits: Habits, draw: np.random.Generator) -> str:
        """Running sums, a line a step, then the answer. Habits have no meaning here."""
        match = EXPRESSION.search(problem.prompt) if problem.task == "chain_sum" else None
        if match is None or habits != Habits():
            raise UserError(
                f"pretrain: no worked solutions with habits {habits} for {problem.task!r}. Leave "
                "it out of the model's datasets, and habits at zero."
            )
        terms = re.findall(r"([+-]?)\s*(\d+)", match[1])
        total = int(terms[0][0] + terms[0][1])
        lines = []
        for sign, number in terms[1:]:
            result = total + int(sign + number)
            lines.append(f"{total} {sign} {number} = {result}")
            total = result
        return "\n".join([*lines, f"Answer: {total}"])

    def check(self, task: str, response: str, answer: str) -> Checked:
        """The text after the last `Answer:`, graded by the dataset; 1.0 is correct.

        Where the scorer does not come to a score, the reason is raised, timeout or crashed.
        """
        entry = entry_of(answer)
        texts = finals(response, str(entry["answer"]))
        if not texts:
            return Checked(None, False)
        if len(texts[0]) > LONGEST:
            return Checked(texts[0][:LONGEST], False, "too_long")
        reply = self._scores(task, entry, texts)
        if reply.get("created") is False:
            raise UserError(f"prepare.datasets.{task}: {reply['error']}")
        correct = 1.0 in reply.get("scores", ())
        return Checked(texts[0], correct, None if correct else reply.get("reason"))


def refused(name: str, reason: str) -> UserError:
    return UserError(
        f"prepare.datasets.{name}: {reason}. Leave the dataset out, or change its settings; "
        "docs/tasks.md lists which pass."
    )


def _start(name: str, seed: int, block: int) -> int:
    # below 2**31 and far apart: a dataset seeds entry i with its own seed + i
    return seeds.number("reasoning-gym", name, seed, block) % 2**31
