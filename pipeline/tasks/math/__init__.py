"""Mathematics with a final answer: GSM8K, MATH-500, AIME, OlympiadBench, or rows of your own.

The checker reads the final answer alone, never the working: the last complete `\\boxed{...}`, else
what follows the last `Answer:`, else the last `####` (final.py). A broken `\\boxed{` after a
complete one does not hide it; such responses are counted as `graded_malformed`. What is written
decides where it can (judge.py); else math-verify says whether two answers are equal (grader.py).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from pipeline.config import params
from pipeline.config.models import Habits
from pipeline.config.problems import ProblemSet, RowsPrepare
from pipeline.core.errors import UserError
from pipeline.tasks import Checked, Problem, unlearnable
from pipeline.tasks.math import written
from pipeline.tasks.math.final import CALCULATOR, extract, readings
from pipeline.tasks.math.grader import Grader
from pipeline.tasks.math.judge import judge, several
from pipeline.tasks.math.signs import bare

LONGEST = 1000  # characters of a final answer; no known one has 500
WRONG = "zebra"  # no problem's answer


class MathSet(ProblemSet):
    """A set in the fields of a known one, or with its fields named."""

    format: Literal["gsm8k", "math-500", "aime", "olympiadbench"] | None = None
    prompt: str | None = None  # name of the field, where there is no format
    answer: str | None = None


class Prepare(RowsPrepare):
    task: Literal["math"]
    sets: Mapping[params.Name, MathSet]
    instruction: str  # appended to each problem
    grader: Literal["math-verify"] = "math-verify"
    timeout_seconds: params.Positive = 5.0  # for one answer


def load(prepare: Prepare) -> "Math":
    return Math(prepare)


class Math:
    def __init__(self, prepare: Prepare) -> None:
        self.prepare = prepare
        self._grader = Grader(prepare.timeout_seconds)
        self.dropped = Counter[str]()  # by problems()

    def alphabet(self) -> str:
        raise unlearnable("math")

    def problems(self, seed: int) -> Iterator[Problem]:
        from pipeline.tasks import problem_files

        return problem_files.draw(self.prepare, self._problem, self._alike, self.dropped)

    def _alike(self, one: str, other: str) -> bool:
        """Whether two golds are one answer, as the checker grades."""
        return one == other or self._equal(one, other)[0]

    def _problem(self, name: str, row: Any) -> Problem:
        prompt, answer = fields(self.prepare.sets[name], row)
        content = f"{prompt}\n{self.prepare.instruction}"
        return Problem(name, [{"role": "user", "content": content}], prompt, golden(answer))

    def solution(self, problem: Problem, habits: Habits, draw: np.random.Generator) -> str:
        raise unlearnable("math")

    def check(self, task: str, response: str, answer: str) -> Checked:
        found, gold = extract(response), golden(answer)
        if found.text is None:
            return Checked(None, False, found.reason)
        if len(found.text) > LONGEST:
            return Checked(found.text[:LONGEST], False, "too_long")
        reason = None
        for text in readings(found, several(gold)):
            correct, reason = self._equal(gold, text)
            if correct:
                return Checked(text, True, found.reason)
            if reason in ("timeout", "crashed", "memory"):  # another reading would cost as much
                break
        return Checked(found.text, False, reason or found.reason)

    def _equal(self, gold: str, text: str) -> tuple[bool, str | None]:
        verdict = judge(gold, text)
        if isinstance(verdict, bool):
            return verdict, None
        signs = [written.hundredths(x) for x in (gold, text)]
        return self._grader.equal(*verdict, *signs)

    def prove(self, problem: Problem) -> None:
        """Refuse a gold that the checker cannot tell from a wrong answer. Raises UserError."""
        right = self.check(problem.task, f"\\boxed{{{problem.answer}}}", problem.answer)
        wrong = self.check(problem.task, f"\\boxed{{{WRONG}}}", problem.answer)
        if right.correct and not wrong.correct:
            return
        grades = f"itself {_graded(right.correct)} and {WRONG!r} {_graded(wrong.correct)}"
        raise UserError(
            f"prepare.sets.{problem.task}: the answer {problem.answer[:80]!r} to "
            f"{problem.prompt[:80]!r} grades {grades}, wanted right and wrong. Correct the row's "
            "answer: one value, list or expression, in LaTeX or plain text."
        )


def _graded(correct: bool) -> str:
    return "right" if correct else "wrong"


def golden(answer: str) -> str:
    """The gold of a set as its value alone: what follows `####`, or stands in its box."""
    if "boxed" in answer:
        return extract(answer).text or answer
    return CALCULATOR.sub("", answer.rpartition("####")[2]).strip()


def fields(source: MathSet, row: Any) -> tuple[str, str]:
    """Problem and final answer of a rows.Row, from the fields that each set really has."""
    match source.format:
        case "gsm8k":
            text = row.text("answer")
            _, found, final = text.rpartition("####")
            if not found or not final.strip():
                raise row.wrong(("answer",), text, "a solution that ends in `#### ANSWER`")
            return row.text("question"), final.strip().replace(",", "")
        case "math-500":
            return row.text("problem"), row.text("answer")
        case "aime":  # hubs differ; in some `problem` is a number beside `question`
            final = row.text("answer", "Answer", "solution")
            boxed = extract(final).text if "boxed" in final else final
            if boxed is None:
                raise row.wrong(("answer", "Answer", "solution"), final, "a final answer")
            return row.text("question", "Question", "problem", "Problem"), boxed
        case "olympiadbench":
            found = row.first("final_answer")
            if not (isinstance(found, list) and found and all(isinstance(x, str) for x in found)):
                raise row.wrong(("final_answer",), found, "a list of answers; proofs have none")
            context = row.values.get("context")
            question = row.text("question")
            final = ", ".join(bare(x) for x in found)
            if context is None or not str(context).strip():
                return question, final
            return f"{context}\n{question}", final
        case None if source.prompt and source.answer:
            return row.text(source.prompt), row.text(source.answer)
    raise UserError("prepare.sets: found neither format nor prompt and answer, wanted one. Add it.")
