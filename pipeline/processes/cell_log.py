"""What the lock of a cell says while its stage runs, and after it failed.

    process 123 on host since 2026-01-02 03:04:05
    {"what": "train", "done": 3, "total": 12, "per_second": 1.5, "at": 1.7e9}

The second line is how far the stage is, by its own progress bars, also where there is no terminal
for them to show anything; or how it failed, with the last that it said. A stage that ends well
removes its lock; one that was killed leaves it as it is. Nothing of this is part of a result.
"""

import json
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

TELL_SECONDS = 1.0  # between two words of a bar
LINES, LONGEST = 12, 300  # kept of what a stage said, and characters of each
REFUSED = "error: "  # how the last line of a stage that refused its input begins


def who() -> str:
    """This process, as the first line of a lock that it holds."""
    since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    return f"process {os.getpid()} on {socket.gethostname()} since {since}"


class Log:
    """The second line of a lock that this process holds."""

    def __init__(self, descriptor: int, begin: int) -> None:
        """`begin`: bytes of the first line."""
        self._descriptor, self._begin, self._width = descriptor, begin, 0
        self._pid = os.getpid()
        self.lines: deque[str] = deque(maxlen=LINES)
        self.crashed = False

    def say(self, **state: Any) -> None:
        """Write it in the place of what was said before: at once, so that no reader sees half."""
        if os.getpid() != self._pid:  # a fork of the holder
            return
        text = json.dumps({**state, "at": time.time()})
        self._width = max(self._width, len(text))
        os.pwrite(self._descriptor, f"\n{text.ljust(self._width)}".encode(), self._begin)

    def failed(self) -> bool:
        """Whether the stage ended by an error, as far as it said so; note it."""
        last = self.lines[-1] if self.lines else ""
        if not self.crashed and not last.startswith(REFUSED):
            return False
        self.say(failed=last.removeprefix(REFUSED), lines=list(self.lines))
        return True


class Teed:
    """A text stream whose last lines are kept, too; else it is the stream itself."""

    def __init__(self, stream: TextIO, lines: "deque[str]") -> None:
        self._stream, self._lines, self._open = stream, lines, ""

    def write(self, text: str) -> int:
        *whole, rest = (self._open + text).split("\n")
        self._lines.extend(_shown(line) for line in whole if _shown(line))
        self._open = rest.rpartition("\r")[2]
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _step() -> str:
    """Of a cell of several steps, which one this is: pipeline/stage/multi_step.py names them so."""
    key = sys.argv[2] if sys.argv[1:2] == ["--cell"] and len(sys.argv) > 2 else ""
    step = key.partition("/")[2]
    return f"step {step}, " if step else ""


def _shown(line: str) -> str:
    """What a terminal has of it at last: a bar is drawn over itself."""
    return line.rstrip().rpartition("\r")[2][:LONGEST]


def follow(log: Log) -> None:
    """Let each progress bar of this process tell the log how far it is."""
    import tqdm

    class Told(tqdm.tqdm):  # type: ignore[type-arg]
        """A bar that counts where it shows nothing, as well."""

        def __init__(
            self, iterable: Any = None, desc: Any = None, *args: Any, **named: Any
        ) -> None:
            super().__init__(iterable, desc, *args, **named)
            self._what, self._begun = desc, (time.time(), self.n)
            self._told = 0.0

        def __iter__(self) -> Iterator[Any]:
            if not self.disable:
                yield from super().__iter__()
                return
            assert self.iterable is not None
            for one in self.iterable:
                yield one
                self.update()

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self.disable:
                self.n += n or 0
            if (now := time.monotonic()) - self._told >= TELL_SECONDS:
                self._told = now
                log.say(**self._state())
            return shown

        def _state(self) -> dict[str, Any]:
            since, before = self._begun
            rate = (self.n - before) / max(time.time() - since, 1e-9)
            return {
                "what": f"{_step()}{self._what or ''}",
                "done": self.n,
                "total": self.total,
                "per_second": rate,
            }

    tqdm.tqdm = Told  # type: ignore[misc]


class Holder(NamedTuple):
    """What a lock says: its holder, or who held it when it ended."""

    pid: int
    host: str
    since: str
    state: dict[str, Any]


def read(path: Path) -> Holder | None:
    """None where there is no lock, or nobody has written in it yet."""
    try:
        first, _, second = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    except FileNotFoundError:
        return None
    words = first.split(" ")
    if len(words) < 7 or words[0] != "process" or not words[1].isdigit():
        return None
    try:
        state = json.loads(second or "{}")
    except ValueError:  # it is being written
        state = {}
    return Holder(int(words[1]), words[3], " ".join(words[5:7]), state)
