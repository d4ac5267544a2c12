"""What this process and all that it starts write to its standard streams, a line at a time.

Taken at the descriptors: stages, DVC and libraries write there past any stream of Python's.
"""

import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread

from pipeline.processes import stopping, subprocesses

STDERR = 2
CHUNK = 1 << 16
Lines = Callable[[Sequence[str]], None]
END = b"\0the end of the captured lines\0\n"


@contextmanager
def captured(descriptors: Collection[int], lines: Lines) -> Iterator[None]:
    """Hand the lines, some at a time, to `lines` in a thread until the end of the block.

    What a process that outlives the block still writes goes where it would have gone, as long as
    this process lives: after that its writes fail.
    """
    _flush()
    kept = {number: os.dup(number) for number in descriptors}
    source, sink = os.pipe()
    over = Event()
    Thread(target=_read, args=[source, min(kept.values()), lines, over], daemon=True).start()
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


def _read(source: int, after: int, lines: Lines, over: Event) -> None:
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
            if not ended and (at := rest.rfind(b"\r", 0, -1)) > 0:
                rest = rest[at:]  # a bar that was drawn over itself
            _hand([*whole, rest] if ended and rest else whole, lines, after)
            if ended:
                over.set()
                _pass(after, late)
    finally:
        over.set()
        os.close(source)  # where this died, who writes is told so and does not wait
        os.close(after)


def _hand(some: list[bytes], lines: Lines, after: int) -> None:
    try:
        if some:
            lines([_shown(one) for one in some])
    except Exception:  # noqa: BLE001 - who writes would wait for ever for who reads
        _pass(after, b"".join(one + b"\n" for one in some))


def _pass(to: int, chunk: bytes) -> None:
    with suppress(OSError):
        os.write(to, chunk)


def _shown(line: bytes) -> str:
    return subprocesses.shown(line.decode("utf-8", errors="replace"))
