"""How `omniopd run` and `omniopd repro` show themselves: a picture below their lines on a terminal,
the lines alone elsewhere, with --quiet neither.

Whatever becomes of the picture, the run goes on. It is drawn by a thread that only looks.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread

import typer

from pipeline.commands.status.look import Looker
from pipeline.commands.view.captured import STDERR, captured
from pipeline.commands.view.heard import Heard
from pipeline.commands.view.picture import Sheet, picture
from pipeline.commands.view.screen import STDOUT, Screen, possible
from pipeline.processes import stopping

SECONDS = 1.0  # between two pictures
SHARE = 10  # looking takes at most one part in so many of the time: it is the run's own process
TRIES = 5  # looks in a row that may fail: a file may be in the midst of being written
END_SECONDS = 2.0  # that the run waits for a look that has begun
OF_LINES = 0.6  # the picture's part of the terminal; above it stand the run's own lines
TAIL = 30  # lines that --quiet shows where something failed


@contextmanager
def shown(quiet: bool) -> Iterator[None]:
    """Show the run that the block is. Raises only what it raises."""
    if quiet:
        with _quiet():
            yield
    elif possible():
        with _live():
            yield
    else:
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    heard, tail = Heard(), deque[str](maxlen=TAIL)

    def lines(some: Sequence[str]) -> None:
        tail.extend(some)
        for text in some:
            heard.line(text)

    try:
        with captured((STDOUT, STDERR), lines):
            yield
    except Exception as error:
        if not isinstance(error, stopping.Stopped):  # then nothing failed
            typer.echo("\n".join(heard.complaint() or tail), err=True)
        raise


@contextmanager
def _live() -> Iterator[None]:
    # where stderr is anything but this terminal, it stays so
    streams = (STDOUT, STDERR) if _same_terminal() else (STDOUT,)
    screen, heard = Screen(os.dup(STDOUT), sys.stdout.encoding or "ascii"), Heard()
    over = Event()

    def lines(some: Sequence[str]) -> None:
        screen.say("".join(f"{text}\n" for text in some))
        for text in some:
            heard.line(text)

    drawer = Thread(target=_draw, args=[screen, heard, over], daemon=True)
    with captured(streams, lines):
        drawer.start()
        try:
            yield
        finally:
            with stopping.later():
                over.set()
                screen.close(clear=True)
                drawer.join(END_SECONDS)


def _same_terminal() -> bool:
    try:
        return os.path.samestat(os.fstat(STDOUT), os.fstat(STDERR))
    except OSError:
        return False


def _draw(screen: Screen, heard: Heard, over: Event) -> None:
    looker, begun, wait, failed = None, time.monotonic(), 0.0, 0
    while not over.wait(wait):
        start = time.monotonic()
        try:
            looker = looker or Looker()
            found = heard.over(looker.look())
            width, height = screen.size()
            sheet = Sheet(width, int(height * OF_LINES), screen.plain)
            screen.draw(picture(found, sheet, start - begun))
            failed = 0
        except Exception as error:  # noqa: BLE001 - the run must not end for its picture
            failed += 1
            if failed == TRIES and not over.is_set():
                screen.close(clear=True)
                screen.say(f"nothing more is drawn: {type(error).__name__}: {error}\n")
                return
        wait = max(SECONDS, SHARE * (time.monotonic() - start))
