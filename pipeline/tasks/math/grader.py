"""math-verify in a process that is killed at the time limit.

sympy does not come back from `9^{9^{9^9}}`, and a signal does not reach it there.
"""

import functools
import json
import logging
import multiprocessing
import resource
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from pipeline.errors import UserError

MEMORY = 1 << 30  # bytes that the checker may take for an answer
START_SECONDS = 120.0  # for its imports, on a busy machine
DIGITS = 1000  # in which exact values are told apart; math-verify takes 1e-15 for nothing


class Grader:
    """math-verify in a process that serves one answer after another and may be killed.

    New ones are forked from a server that has imported it once, so a kill costs little.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._worker: tuple[BaseProcess, Connection] | None = None

    def equal(self, gold: str, answer: str, *signs: str) -> tuple[bool, str | None]:
        """Whether the answers are equal, and why that could not be found out.

        `signs` are the signs of percent that belong to them, which math-verify wants outside.
        """
        _, pipe = self._worker = self._worker or self._start()
        try:
            pipe.send_bytes(json.dumps([gold, answer, *signs]).encode())
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
        return math_verify.parse(f"${text}${sign}", config, parsing_timeout=None)

    def verified(gold: str, answer: str, *signs: str) -> tuple[bool, bool]:
        """Whether they are equal, and whether the answer was understood."""
        wanted, found = gold_of(gold, signs[0]), parsed(answer, signs[1])
        understood = not all(isinstance(x, str) for x in found)
        unit = [imaginary(x) for x in (wanted, found)]
        correct = same(wanted, found) or (unit != [wanted, found] and same(*unit))
        return correct, understood

    def same(wanted: Any, found: Any) -> bool:
        equal = math_verify.verify(
            wanted, found, timeout_seconds=None, allow_set_relation_comp=True
        )
        return bool(equal) and near(wanted[0], found[0])

    verified(r"x+\frac{1}{2}", r"\frac{1}{2}+x", "", "")  # or the first answer's time goes on it
    pipe.send_bytes(b"ready")
    while True:
        try:
            gold, answer, *signs = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        _limit_cpu(timeout_seconds)
        try:
            correct, understood = verified(gold, answer, "", "")
            if not correct and any(signs):
                correct, _ = verified(gold, answer, *signs)
            reason = None if understood else "unparsable"
        except Exception as error:  # noqa: BLE001 - of any kind, from sympy
            correct, reason = False, "memory" if isinstance(error, MemoryError) else "unparsable"
        pipe.send_bytes(json.dumps([correct, reason]).encode())


def imaginary(answers: list[Any]) -> list[Any]:
    """What math-verify has read, with the root of -1 for the letter i."""
    import sympy

    def replaced(found: Any) -> Any:
        letters = {x: sympy.I for x in found.free_symbols if x.name == "i"}
        return found.subs(letters) if letters else found

    known = sympy.Basic | sympy.MatrixBase
    return [replaced(x) if isinstance(x, known) else x for x in answers]


def near(gold: Any, answer: Any) -> bool:
    """Whether two values that math-verify calls equal are so relative to their size, too.

    Of lists each pair; of formulas the values at one place. What has no value is believed.
    """
    import sympy

    pair = gold, answer
    if all(isinstance(x, sympy.Tuple | sympy.FiniteSet | sympy.MatrixBase) for x in pair):
        golds, answers = (list(x) if isinstance(x, sympy.MatrixBase) else x.args for x in pair)
        if len(golds) != len(answers):
            return True
        if isinstance(gold, sympy.FiniteSet):
            return all(any(near(x, y) for y in answers) for x in golds)
        return all(map(near, golds, answers))
    if not all(isinstance(x, sympy.Expr) for x in pair):
        return True
    letters = sorted(gold.free_symbols | answer.free_symbols, key=str)
    place = {x: sympy.Rational(13 + 2 * i, 7 + i) for i, x in enumerate(letters)}
    left, right = (sympy.N(x.subs(place), 20) for x in pair)
    if not (left.is_number and right.is_number):
        return True
    floats = gold.has(sympy.Float) or answer.has(sympy.Float)
    size = abs(left)
    if floats:
        return bool(abs(left - right) <= min(1e-6, 1e-5 * size))
    gap = abs(sympy.N((gold - answer).subs(place), 15, maxn=DIGITS))
    return bool(gap <= sympy.Float(f"1e-{DIGITS // 2}") * (size or 1))


def _limit_cpu(timeout_seconds: float) -> None:
    """Where nobody is left to kill it, the kernel does."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + timeout_seconds) + 5
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
