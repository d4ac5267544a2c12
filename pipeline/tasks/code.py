"""Programs with unit tests, as HumanEval has them: prompt, test, entry_point on each row.

pipeline/sandbox/extract.py finds the program that a response means. Tests run in pipeline/sandbox,
without which nothing is graded.
"""

import json
import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline.config import params
from pipeline.config.models import Habits
from pipeline.config.problems import RowsPrepare
from pipeline.tasks import Checked, Problem, unlearnable

LONGEST = 100_000  # characters of a response, without what it thought


class Prepare(RowsPrepare):
    sandboxed: ClassVar[bool] = True

    task: Literal["code"]
    instruction: str  # before each prompt
    timeout_seconds: params.Positive = 10.0  # for one program with its tests
    memory_bytes: params.Count = 512 << 20  # of each process


def load(prepare: Prepare) -> "Code":
    return Code(prepare)


class Code:
    def __init__(self, prepare: Prepare) -> None:
        self.prepare = prepare
        self.dropped = Counter[str]()  # by problems()

    def alphabet(self) -> str:
        raise unlearnable("code")

    def problems(self, seed: int) -> Iterator[Problem]:
        from pipeline.tasks import problem_files

        return problem_files.draw(self.prepare, self._problem, same_tests, self.dropped)

    def _problem(self, name: str, row: Any) -> Problem:
        kept = {field: row.text(field) for field in ("prompt", "test", "entry_point")}
        if not kept["entry_point"].isidentifier():
            raise row.wrong(("entry_point",), kept["entry_point"], "the name of a function")
        content = f"{self.prepare.instruction}\n```python\n{kept['prompt'].rstrip()}\n```"
        messages = [{"role": "user", "content": content}]
        return Problem(name, messages, kept["prompt"], json.dumps(kept))

    def solution(self, problem: Problem, habits: Habits, draw: np.random.Generator) -> str:
        raise unlearnable("code")

    def check(self, task: str, response: str, answer: str) -> Checked:
        """Run the tests on the response; the reason of a failure is its kind."""
        from pipeline import sandbox

        sandbox.probe()
        problem = json.loads(answer)
        response = response.rpartition("</think>")[2]
        if len(response) > LONGEST:
            return Checked(response[:LONGEST], False, "too_long")
        given = {"response": response, **{x: problem[x] for x in ("prompt", "entry_point")}}
        ended = sandbox.run(sandbox.EXTRACT.read_text(encoding="utf-8"), given, self._limits())
        if ended.stopped is not None or not ended.result:
            return Checked(None, False, ended.stopped or "unfinished")
        found = json.loads(ended.result)
        reason = judged(found, problem["test"], problem["entry_point"], self._limits())
        return Checked(found, reason is None, reason)

    def _limits(self) -> Any:
        from pipeline.sandbox import Limits

        return Limits(self.prepare.timeout_seconds, self.prepare.memory_bytes)


def same_tests(one: str, other: str) -> bool:
    """Whether two golds test one function alike, whatever their prompts look like."""
    golds = [json.loads(x) for x in (one, other)]
    kept = [(x["entry_point"], x["test"].split()) for x in golds]
    return kept[0] == kept[1]


def judged(source: str, test: str, entry_point: str, limits: Any) -> str | None:
    """None where the tests pass, else why not: tests, error, exit, timeout, memory, ..."""
    from pipeline import sandbox

    token = secrets.token_hex(16)
    given = {"token": token, "answer": source, "test": test, "entry_point": entry_point}
    ended = sandbox.run(sandbox.HARNESS.read_text(encoding="utf-8"), given, limits)
    if ended.stopped is not None:
        return ended.stopped
    try:
        verdict = json.loads(ended.result)
        if verdict["token"] == token:
            return None if verdict["reason"] == "passed" else str(verdict["reason"])
    except (ValueError, TypeError, KeyError):
        pass  # nothing, or something that the program wrote
    return "timeout" if ended.status == sandbox.CPU_STATUS else "unfinished"
