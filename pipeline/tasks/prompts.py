"""A file of prompts, an object a line: `{"prompt": "..."}` or `{"messages": [...]}`. No checker.

Where a row has both, messages that end with a user's are what is asked.
Optional `answer` is kept in the prompts table for people; nothing reads it. Rollouts have reward
null: arms are trained and not evaluated, and those that need a reward are refused.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.config import params
from pipeline.config.models import Habits
from pipeline.config.problems import TaskPrepare
from pipeline.core.errors import UserError
from pipeline.tasks import Checked, Problem, unlearnable

NAME = "prompts"
ROLES = ("system", "user", "assistant")


class Prepare(TaskPrepare):
    graded: ClassVar[bool] = False

    task: Literal["prompts"]
    file: str  # or a folder, of a kind that pipeline/data/row_files.py knows
    sha256: params.Sha256 | None = None  # of the file; `omniopd plan` fills it in
    # the rows are rollouts of another trainer: pipeline/training/external_rollouts.py
    responses: bool = False
    dev: Annotated[int, Field(ge=0)] = 0
    test: Annotated[int, Field(ge=0)] = 0

    @property
    def rows(self) -> str:
        return self.file

    @property
    def imported(self) -> bool:
        return self.responses

    def resolved(self) -> dict[str, Any]:
        from pipeline.data.content_hash import sha256

        found = super().resolved() | {"sha256": sha256(self.file, self.sha256)}
        if not self.responses:  # a cell of before there were responses keeps its name
            del found["responses"]
        return found


def load(prepare: Prepare) -> "Prompts":
    return Prompts(prepare)


class Prompts:
    def __init__(self, prepare: Prepare) -> None:
        self.prepare = prepare
        self.dropped = Counter[str]()  # by problems()

    def alphabet(self) -> str:
        raise unlearnable(NAME)

    def problems(self, seed: int) -> Iterator[Problem]:
        """Test, dev, then train, shuffled."""
        from pipeline.tasks import problem_files

        p, taken = self.prepare, dict[str, str]()
        rows = problem_files.file(Path(p.file), p.sha256)
        pool = [problem_files.pooled(row.where, problem(row)) for row in rows]
        # several rollouts of a prompt are no repeats that are left out
        dropped = Counter[str]() if p.responses else self.dropped
        for split, count in (("test", p.test), ("dev", p.dev), ("train", p.train)):
            # one text is one prompt: rollouts of another trainer belong to the text as it is
            yield from problem_files.pick(pool, seed, split, count, taken, dropped, exact=True)

    def solution(self, problem: Problem, habits: Habits, draw: np.random.Generator) -> str:
        raise unlearnable(NAME)

    def check(self, task: str, response: str, answer: str) -> Checked:
        raise UserError("task 'prompts' has no checker. Evaluate on another task.")


def problem(row: Any) -> Problem:
    """`row` is a rows.Row: that module is loaded by `prepare` alone."""
    answer = row.values.get("answer")
    answer = "" if answer is None else str(answer)
    talk = _are_messages(row.values.get("messages"))
    if not talk and not isinstance(row.values.get("prompt"), list | None):
        prompt = row.text("prompt")
        return Problem(NAME, [{"role": "user", "content": prompt}], prompt, answer)
    asked = row.first("messages", "prompt")
    if not _are_messages(asked):
        wanted = f"a list of {{role, content}} with roles of {ROLES}, a user's last"
        raise row.wrong(("messages",), asked, wanted)
    messages = [{"role": x["role"], "content": x["content"]} for x in asked]
    # the whole conversation: two that end in the same question are different prompts
    return Problem(NAME, messages, "\n\n".join(x["content"] for x in messages), answer)


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(x, dict) for x in value)
        and all(x.get("role") in ROLES and isinstance(x.get("content"), str) for x in value)
        and value[-1]["role"] == "user"
        and bool(value[-1]["content"].strip())
    )
