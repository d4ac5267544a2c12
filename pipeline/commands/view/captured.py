"""What this process and all that it starts write to its standard streams, a line at a time.

Taken at the descriptors: stages, DVC and libraries write there past any stream of Python's.
"""

import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from pipeline.processes import stopping

STDERR = 2
CHUNK = 1 << 16
END = b"\0the end of the captured lines\0\n"


@contextmanager
def captured(descriptors: Collection[int], line: Callable[[str], None]) -> Iterator[None]:
    """Hand each line to `line`, in a thread, until the end of the block.

    What a process that outlives the block still writes goes where it would have gone.
    """
    _flush()
    kept = {number: os.dup(number) for number in descriptors}
    source, sink = os.pipe()
    over = Event()
    Thread(target=_read, args=[source, min(kept.values()), line, over], daemon=True).start()
    try:
        for number in descriptors:
            os.dup2(sink, number)
        yield
    finally:
        with stopping.later():
            _flush()
            for number, own in kept.items():
                os.dup2(own, number)
            os.write(sink, END)
            os.close(sink)
            over.wait()
            for own in sorted(kept.values())[1:]:  # the first is of the thread
                os.close(own)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # it is closed
            stream.flush()


def _read(source: int, after: int, line: Callable[[str], None], over: Event) -> None:
    rest = b""
    try:
        while chunk := os.read(source, CHUNK):
            if over.is_set():
                _pass(after, chunk)
                continue
            rest += chunk
            ended = END in rest
            rest, _, late = rest.partition(END)
            *whole, rest = rest.split(b"\n")
            for one in [*whole, rest] if ended and rest else whole:
                _hand(one, line, after)
            if ended:
                over.set()
                _pass(after, late)
    finally:
        over.set()


def _hand(one: bytes, line: Callable[[str], None], after: int) -> None:
    try:
        line(_shown(one))
    except Exception:  # noqa: BLE001 - who writes would wait for ever for who reads
        _pass(after, one + b"\n")


def _pass(to: int, chunk: bytes) -> None:
    with suppress(OSError):
        os.write(to, chunk)


def _shown(line: bytes) -> str:
    """What a terminal has of it at last: a bar is drawn over itself."""
    return line.decode("utf-8", errors="replace").rstrip("\r\n").rpartition("\r")[2]
