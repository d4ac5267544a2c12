"""Commands side by side: their lines kept apart, and none left behind when the work is stopped."""

import contextlib
import io
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import psutil

from pipeline.processes import reaper, stopping

GRACE_SECONDS = 5.0  # from the interrupt, on which stages clean up, to the kill


class Stopped(Exception):
    """The work is being stopped: nothing more is started."""


class Processes:
    """Commands started by several threads, each in a process group of its own.

    So a Ctrl-C in the terminal reaches only us, and `stop` decides how they end.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self.stopping = False

    def run(self, command: Sequence[str], line: Callable[[str], None]) -> int:
        """Run `command`, hand each line of its output to `line`; its exit status.

        A negative status is the signal that ended it. Raises Stopped once `stop` was called.
        """
        process = self._start(command)
        try:
            assert process.stdout is not None
            for text in process.stdout:
                if not self.stopping:
                    line(shown(text))
            status = process.wait()
        finally:
            with self._lock:
                self._running.discard(process)
        if self.stopping:
            raise Stopped
        return status

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        with self._lock:
            if self.stopping:
                raise Stopped
            process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                process_group=0,
            )
            by_lines(process)
            self._running.add(process)
            return process

    def stop(self) -> None:
        """End every command with all that it started."""
        with self._lock:
            self.stopping = True
            running = [process.pid for process in self._running]
        end(running)


def by_lines(process: "subprocess.Popen[str]") -> None:
    """Have a line of its output end at a line feed alone: a bar draws itself over and over."""
    assert isinstance(process.stdout, io.TextIOWrapper)
    process.stdout.reconfigure(newline="\n")


def shown(line: str) -> str:
    """What a terminal has of it at last: a bar is drawn over itself."""
    return line.rstrip().rpartition("\r")[2]


def status(command: Sequence[str], folder: Path, environment: dict[str, str], kept: str) -> int:
    """The exit status of a command in `folder`, which ends with us, however that is.

    Raises stopping.Stopped, after its end, where a signal asked for that; `kept` says what is.
    """
    try:
        with stopping.heard(), reaper.watched():
            process = subprocess.Popen(command, cwd=folder, env=environment)
            try:
                return process.wait()
            except stopping.Asked:
                end([process.pid])
                raise
    except stopping.Asked as asked:
        raise stopping.Stopped(kept, asked) from None


def end(pids: Iterable[int]) -> None:
    """End processes with all that they started: an interrupt first, then a kill.

    The family is listed before the first signal: a child whose parent has died is found by no one.
    DVC alone would not do: it survives an interrupt and leaves its stage when killed.
    """
    family = [one for pid in pids for one in _family(pid)]
    for one in family:
        _send(one, signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=GRACE_SECONDS)
    late = [child for one in alive for child in _family(one.pid)]
    for one in {*alive, *late}:
        _send(one, signal.SIGKILL)
    psutil.wait_procs([*alive, *late], timeout=GRACE_SECONDS)


def _family(pid: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
