"""What one fault did: five counters that have to stay at 0, and where each kind is registered."""

import contextlib
import os
import random
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

MARK = "OMNIOPD_CHAOS"  # in the environment of all that a fault's work started
HANG_SECONDS = 30.0  # of doing nothing, after which work that should have ended counts as hanging
BUSY_SECONDS = 300.0  # of doing something, likewise: on a busy machine what takes long is no hang
LOOK_SECONDS, BUSY_SHARE = 0.5, 0.05  # how often it is looked at, and what is not nothing
LEFT_SECONDS = 10.0  # that processes have to end in


@dataclass
class Outcome:
    """What a fault did. `lost` and `bought_twice` are answers, beyond those in flight at it."""

    lost: int = 0  # that had arrived, and were not to be found afterwards
    bought_twice: int = 0
    silent: int = 0  # results that differ from an undisturbed run's, with exit 0
    processes_left: int = 0
    hangs: int = 0
    told: list[str] = field(default_factory=list)  # what to look at where a counter is above 0

    @property
    def clean(self) -> bool:
        return not any(self.counts().values())

    def counts(self) -> dict[str, int]:
        return {name: value for name, value in asdict(self).items() if name != "told"}


@dataclass
class Place:
    """Where a fault happens: a folder of its own, draws of its own, processes of its own."""

    folder: Path
    draw: random.Random
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def environment(self) -> dict[str, str]:
        return {**os.environ, MARK: self.mark}

    def left(self, seconds: float = LEFT_SECONDS) -> list[str]:
        """Command lines of marked processes that still run after `seconds`; they are ended."""
        deadline = time.monotonic() + seconds
        while (found := list(self._marked())) and time.monotonic() < deadline:
            time.sleep(0.05)
        lines = []
        for process in found:
            with contextlib.suppress(psutil.Error):
                lines.append(" ".join(process.cmdline())[:200])
                process.kill()
        return lines

    def _marked(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.environ().get(MARK) == self.mark:
                    yield process


def ended(process: psutil.Popen, seconds: float = HANG_SECONDS) -> bool:
    """Whether a process ends before it, with all that it started, has used no processor time for
    `seconds`, or has gone on for BUSY_SECONDS."""
    begin = busy = time.monotonic()
    used = 0.0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
            process.wait(LOOK_SECONDS)
            return True
        now = time.monotonic()
        if abs((found := _used(process)) - used) > BUSY_SHARE * LOOK_SECONDS:
            used, busy = found, now
        if now > min(busy + seconds, begin + BUSY_SECONDS):
            return False


def _used(process: psutil.Popen) -> float:
    """Seconds of the processor that it and its children have taken."""
    total = 0.0
    with contextlib.suppress(psutil.Error):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += sum(one.cpu_times()[:2])  # user, system
    return total


Fault = Callable[[Place], Outcome]


@dataclass(frozen=True)
class Kind:
    """One kind of fault; `count` of them are injected in a whole run."""

    name: str
    inject: Fault
    count: int
    running: bool = False  # injected into a process that runs
    flip: bool = False  # of one bit


KINDS: dict[str, Kind] = {}


def kind(name: str, count: int, **more: bool) -> Callable[[Fault], Fault]:
    """Register a function as a kind of fault."""

    def registered(inject: Fault) -> Fault:
        KINDS[name] = Kind(name, inject, count, **more)
        return inject

    return registered


def wait_until(condition: Callable[[], object], seconds: float = HANG_SECONDS) -> bool:
    """Whether `condition` came true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
