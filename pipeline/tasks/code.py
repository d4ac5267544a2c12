"""Programs with unit tests, as HumanEval has them: prompt, test, entry_point on each row.

A response is judged by its last block of code that defines the entry point, else its last block;
without a block it continues the prompt, up to where something else begins, as base models are
asked. Blocks that do not define the function continue the prompt as well. Tests run in
pipeline/sandbox, without which nothing is graded.
"""

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline import params
from pipeline.tasks import Checked, Problem, unlearnable

LONGEST = 100_000  # characters of a program
BLOCK = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
NEXT = re.compile(r"^(?:class|def|#|if|print)", re.MULTILINE)  # HumanEval's own stop words


class Prepare(params.RowsPrepare):
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
        from pipeline import rows

        return rows.draw(self.prepare, self._problem, same_tests, self.dropped)

    def _problem(self, name: str, row: Any) -> Problem:
        kept = {field: row.text(field) for field in ("prompt", "test", "entry_point")}
        if not kept["entry_point"].isidentifier():
            raise row.wrong(("entry_point",), kept["entry_point"], "the name of a function")
        content = f"{self.prepare.instruction}\n```python\n{kept['prompt'].rstrip()}\n```"
        messages = [{"role": "user", "content": content}]
        return Problem(name, messages, kept["prompt"], json.dumps(kept))

    def solution(self, problem: Problem, habits: params.Habits, draw: np.random.Generator) -> str:
        raise unlearnable("code")

    def check(self, task: str, response: str, answer: str) -> Checked:
        """Run the tests on the response; the reason of a failure is its kind."""
        from pipeline import sandbox

        sandbox.probe()
        problem = json.loads(answer)
        found = program(response, problem["prompt"], problem["entry_point"])
        if len(found) > LONGEST:
            return Checked(found[:LONGEST], False, "too_long")
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


def program(response: str, prompt: str, entry_point: str) -> str:
    """The whole source that a response means."""
    defines = re.compile(rf"^(?:async )?(?:def|class) {entry_point}\b", re.MULTILINE)
    blocks = BLOCK.findall(response)
    whole = [block for block in blocks if defines.search(block)]
    if whole:
        head = defines.search(prompt)
        return f"{prompt[: head.start()] if head else ''}\n{whole[-1]}"
    body = blocks[-1] if blocks else response
    after = NEXT.search(body, 1)
    return prompt + (body[: after.start()] if after else body)


def judged(source: str, test: str, entry_point: str, limits: Any) -> str | None:
    """None where the tests pass, else why not: tests, error, exit, timeout, memory, ..."""
    from pipeline import sandbox

    token = secrets.token_hex(16)
    given = {"token": token, "answer": source, "test": test, "entry_point": entry_point}
    ended = sandbox.run(sandbox.HARNESS.read_text(), given, limits)
    if ended.stopped is not None:
        return ended.stopped
    try:
        verdict = json.loads(ended.result)
        if verdict["token"] == token:
            return None if verdict["reason"] == "passed" else str(verdict["reason"])
    except (ValueError, TypeError, KeyError):
        pass  # nothing, or something that the program wrote
    return "timeout" if ended.status == sandbox.CPU_STATUS else "unfinished"
