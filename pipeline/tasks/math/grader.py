"""math-verify in a process that is killed at the time limit.

sympy does not come back from `9^{9^{9^9}}`, and a signal does not reach it there.
"""

import json
import logging
import multiprocessing
import resource
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from pipeline.core.errors import UserError

MEMORY = 1 << 30  # bytes that the checker may take for an answer
START_SECONDS = 120.0  # for its imports, on a busy machine
COMPARE = "pipeline.tasks.math.compare"  # is loaded in no process but the graders'


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
        context.set_forkserver_preload([COMPARE, __name__])
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
    from pipeline.tasks.math.compare import verified  # the server has it already

    logging.disable()
    with open("/proc/self/statm", encoding="utf-8") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
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
        except Exception as error:  # noqa: BLE001 - sympy raises any kind; counted by its reason
            correct, reason = False, "memory" if isinstance(error, MemoryError) else "unparsable"
        pipe.send_bytes(json.dumps([correct, reason]).encode())


def _limit_cpu(timeout_seconds: float) -> None:
    """Let the kernel kill this process where nobody is left to do it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + timeout_seconds) + 5
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
