"""Mathematics with a final answer: GSM8K, MATH-500, AIME, OlympiadBench, or rows of your own.

The checker reads the final answer alone, never the working: the content of the last complete
`\\boxed{...}`, else what follows the last `Answer:`, else the last `####`. A broken `\\boxed{`
after a complete one does not hide it; such responses are counted as `graded_malformed`.
math-verify decides whether two answers are equal, in a process of its own that is killed at the
time limit: sympy does not come back from `9^{9^{9^9}}`, and a signal does not reach it there.
"""

import functools
import json
import logging
import multiprocessing
import re
import resource
from collections import Counter
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline import params
from pipeline.errors import UserError
from pipeline.tasks import Checked, Problem, unlearnable

LONGEST = 1000  # characters of a final answer; no known one has 500
MEMORY = 1 << 30  # bytes that the checker may take for an answer
START_SECONDS = 120.0  # for its imports, on a busy machine
ANSWER = re.compile(r"answer(?:\*\*)?[ \t]*(?:is\b[ \t]*[:=]?|[:=\uff1a])", re.IGNORECASE)
BRACES = re.compile(r"\\(?:boxed|fbox)\b(?:\s*(\{))?|\\.|[{}]", re.DOTALL)
UNIT = (  # a letter alone is a variable; math-verify itself knows m, g, s
    r"(?:(?!(?:[a-z]|pi|xy)\b)[a-zA-Z][a-zA-Z ]*"
    r"|(?:[cdkm]?m|ft|in|inches|feet|units)\^\{?[23]\}?)"
)
QUANTITY = re.compile(rf"([-+]?[\d,]*\.?\d+(?:/\d+)?) +{UNIT}")  # 18 dollars; 2 x is none
SPACE = r"(?:\s|~|\\[,;:! ])*"
PERCENT = re.compile(rf"(?<=[\d}}$)]){SPACE}\\?%")
HUNDREDTHS = re.compile(r"(?:%|[Pp]ercent)\W*$")
THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3})")
TEXT = re.compile(r"\\(?:text(?:bf|rm|it)?|mbox|mathrm)\{([^{}\\]*)\}")
MARKS = "*_`"  # of markdown, around an answer


class MathSet(params.ProblemSet):
    """A set in the fields of a known one, or with its fields named."""

    format: Literal["gsm8k", "math-500", "aime", "olympiadbench"] | None = None
    prompt: str | None = None  # name of the field, where there is no format
    answer: str | None = None


class Prepare(params.RowsPrepare):
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
        from pipeline import rows

        return rows.draw(self.prepare, self._problem, self._equal, self.dropped)

    def _equal(self, one: str, other: str) -> bool:
        """Whether two golds are one answer, as the checker grades."""
        return plain(one) == plain(other) or self._grader.equal(one, other)[0]

    def _problem(self, name: str, row: Any) -> Problem:
        prompt, answer = fields(self.prepare.sets[name], row)
        content = f"{prompt}\n{self.prepare.instruction}"
        return Problem(name, [{"role": "user", "content": content}], prompt, answer)

    def solution(self, problem: Problem, habits: params.Habits, draw: np.random.Generator) -> str:
        raise unlearnable("math")

    def check(self, task: str, response: str, answer: str) -> Checked:
        found = extract(response)
        if found.text is None:
            return Checked(None, False, found.reason)
        if len(found.text) > LONGEST:
            return Checked(found.text[:LONGEST], False, "too_long")
        if plain(found.text) == plain(answer):
            return Checked(found.text, True, found.reason)
        correct, reason = self._grader.equal(answer, found.text)
        return Checked(found.text, correct, reason or found.reason)


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


class Extracted(NamedTuple):
    text: str | None
    reason: str | None = None  # malformed: the last \boxed has no end


def extract(response: str) -> Extracted:
    """The final answer as the response has it, without marks of markdown around it."""
    start, content = _boxed(response)
    broken = "malformed" if start is not None else None
    if content is not None:
        return Extracted(_clean(content) or None, broken)
    place = max((match.end() for match in ANSWER.finditer(response)), default=None)
    if place is None:
        place = response.rfind("####") + 4 if "####" in response else len(response)
    lines = response[place:].strip(f"{MARKS} \t\r\n").splitlines()
    return Extracted((_clean(lines[0]) or None) if lines else None, broken)


def _boxed(text: str) -> tuple[int | None, str | None]:
    """Where the last box that never closes begins, if after the last complete one; the latter.

    One pass, whatever the text: 100 kB of open boxes take no longer than 100 kB of prose.
    """
    opened: list[tuple[int, bool]] = []  # place after the brace, and whether it is a box's
    best, naked = (-1, -1), -1
    for match in BRACES.finditer(text):
        token = match[0]
        if token == "{":
            opened.append((match.end(), False))
        elif token == "}":
            start, box = opened.pop() if opened else (-1, False)
            if box and start > best[0]:
                best = (start, match.start())
        elif match[1]:
            opened.append((match.end(), True))
        elif len(token) > 2:
            naked = match.end()
    last = max([naked, *(start for start, box in opened if box)])
    complete = text[best[0] : best[1]] if best[0] >= 0 else None
    return (last if last > best[0] else None), complete


def _clean(text: str) -> str:
    return text.strip().strip(MARKS).strip().removesuffix(".").rstrip().strip(MARKS).strip()


def bare(text: str) -> str:
    """An answer without units, and without the signs that only say that it is mathematics.

    The sign of percent is one of these: math-verify reads `$50\\%$` as nothing but a string.
    """
    text = THOUSANDS.sub("", PERCENT.sub("", text.replace("\u00b0", r"^\circ")))
    text = _clean(text)
    for left, right in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        inner = text[len(left) : len(text) - len(right)]
        if len(text) > len(left + right) and text == f"{left}{inner}{right}" and left not in inner:
            text = inner.strip()
    quantity = QUANTITY.fullmatch(text)
    return quantity[1] if quantity else text


def plain(text: str) -> str:
    """The bare answer, taken out of `\\text{...}` where that is all of it."""
    text = bare(text)
    words = TEXT.fullmatch(text)
    return bare(words[1]) if words else text


def hundredths(text: str) -> str:
    """The sign of percent behind the dollars, where math-verify expects it.

    To math-verify `$50$%` equals 50, as problems ask "what percent", and 0.5 and 1/2 too, its
    value; so it does here, for gold and answer alike. 50 without a sign never equals 0.5.
    """
    return "%" if HUNDREDTHS.search(text) else ""


class Grader:
    """math-verify in a process that serves one answer after another and may be killed.

    New ones are forked from a server that has imported it once, so a kill costs little.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._worker: tuple[BaseProcess, Connection] | None = None

    def equal(self, gold: str, answer: str) -> tuple[bool, str | None]:
        """Whether the answers are equal, and why that could not be found out."""
        _, pipe = self._worker = self._worker or self._start()
        try:
            pipe.send_bytes(json.dumps([gold, answer]).encode())
            if not pipe.poll(self.timeout_seconds):
                self.close()
                return False, "timeout"
            correct, reason = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):  # it ended by itself: out of memory, or a crash in C
            self.close()
            return False, "crashed"
        return correct, reason

    def _start(self) -> tuple[BaseProcess, Connection]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["math_verify", __name__])
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, self.timeout_seconds), daemon=True)
        try:
            process.start()
            theirs.close()  # or its end would not be seen here
            if not ours.poll(START_SECONDS):
                raise TimeoutError
            ours.recv_bytes()
        except (EOFError, OSError) as error:  # too late, or it ended during its imports
            if process.pid is not None:
                process.kill()
            raise UserError(
                "math-verify did not start. Is it installed, and the machine alive?"
            ) from error
        return process, ours

    def close(self) -> None:
        """Kill the process; the next answer gets a new one."""
        if self._worker is not None:
            process, pipe = self._worker
            process.kill()
            process.join()
            pipe.close()
            self._worker = None


def serve(pipe: Connection, timeout_seconds: float) -> None:
    """The process: answers to pairs of (gold, answer) until the pipe closes."""
    import math_verify  # the server has it already

    logging.disable()
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    config = [math_verify.LatexExtractionConfig()]  # no other one: those evaluate text as Python

    @functools.lru_cache(maxsize=4096)
    def gold_of(text: str, sign: str) -> Any:
        return parsed(text, sign)

    def parsed(text: str, sign: str) -> Any:
        return math_verify.parse(f"${bare(text)}${sign}", config, parsing_timeout=None)

    def verified(gold: str, answer: str, *signs: str) -> tuple[bool, bool]:
        """Whether they are equal, and whether the answer was understood."""
        wanted, found = gold_of(gold, signs[0]), parsed(answer, signs[1])
        correct = bool(math_verify.verify(wanted, found, timeout_seconds=None))
        return correct, not all(isinstance(x, str) for x in found)

    pipe.send_bytes(b"ready")
    while True:
        try:
            gold, answer = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        _limit_cpu(timeout_seconds)
        try:
            correct, understood = verified(gold, answer, "", "")
            if not correct and any(signs := [hundredths(gold), hundredths(answer)]):
                correct, _ = verified(gold, answer, *signs)
            reason = None if understood else "unparsable"
        except Exception as error:  # noqa: BLE001 - of any kind, from sympy
            correct, reason = False, "memory" if isinstance(error, MemoryError) else "unparsable"
        pipe.send_bytes(json.dumps([correct, reason]).encode())


def _limit_cpu(timeout_seconds: float) -> None:
    """Where nobody is left to kill it, the kernel does."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + timeout_seconds) + 5
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
