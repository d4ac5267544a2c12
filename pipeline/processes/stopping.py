"""A signal that asks a command to end: heard once, told in one line, and in its exit status."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.core.errors import UserError

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal was closed


class Asked(KeyboardInterrupt):
    """The signal came. A KeyboardInterrupt, so that only what cleans up gets in its way."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Stopped(UserError):
    """The command has ended what it started. `status` is 130, 143 or 129, as a shell has it."""

    def __init__(self, message: str, asked: Asked) -> None:
        super().__init__(f"stopped by a signal; {message}")
        self.status = asked.status


@contextmanager
def heard() -> Iterator[None]:
    """Raise Asked in the main thread at the first signal; ignore those that follow it.

    SIGHUP stays ignored under nohup, which is what that is for.
    """

    def first(number: int, _: FrameType | None) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        raise Asked(number)

    before = {number: signal.getsignal(number) for number in ASKING}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    try:
        for number in before:
            signal.signal(number, first)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def later() -> Iterator[None]:
    """Let the block end first: a signal that comes meanwhile is obeyed after it."""
    came: list[int] = []
    before = {n: signal.getsignal(n) for n in ASKING}
    before = {n: handler for n, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, lambda n, _: came.append(n))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
