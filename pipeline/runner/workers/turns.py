"""Whose turn it is on the workers' places.

While the head still reads through what one cell brought and writes its lock, the next one, which
was made ready meanwhile, has the place already.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition

from pipeline.processes.subprocesses import Stopped
from pipeline.runner.cell_graph import Cell

SOON_SECONDS = 10.0  # for which a place is kept for what follows a cell that was brought


@dataclass
class _Held:
    """A cell between its start at the head and its end there."""

    cell: Cell
    following: int  # cells in the longest chain that waits for it
    placed: bool = False
    brought: float | None = None  # since when the worker is done with it


class Turns:
    """The cells that the flow has started. Its methods may be called from several threads."""

    def __init__(self, room: Callable[[Cell, list[Cell]], bool]) -> None:
        """`room(cell, running)`: whether a worker takes one more cell like this beside those."""
        self._room = room
        self._held: dict[str, _Held] = {}  # in the order in which they were started
        self._changed = Condition()
        self._over = False

    def takes(self, cell: Cell, following: int) -> bool:
        """Whether the flow may start a cell: for each place one may wait, and one more for each
        that has less to follow."""
        with self._changed:
            before = [
                one.cell
                for one in self._held.values()
                if not one.placed and one.following >= following
            ]
            if not self._room(cell, before):
                return False
            self._held[cell.name] = _Held(cell, following)
            self._place()
            return True

    def wait(self, name: str, told: Callable[[], None] = lambda: None) -> None:
        """Until the cell has a place; `told` is called where it has none yet. Raises Stopped."""
        with self._changed:
            held = self._held[name]
            if held.brought is not None:  # another try of a cell that failed
                held.placed, held.brought = False, None
                self._place()
            waits = not held.placed
        if waits:
            told()
        with self._changed:
            self._changed.wait_for(lambda: self._over or held.placed)
            if self._over:
                raise Stopped

    def brought(self, name: str) -> None:
        """The worker is done with the cell; the head is not."""
        with self._changed:
            self._held[name].brought = time.monotonic()
            self._place()

    def ended(self, name: str) -> None:
        """The head is done with it, too. A place that was kept goes to what `takes` starts next, or
        to another at a `look`."""
        with self._changed:
            self._held.pop(name, None)

    def look(self) -> None:
        """There may be other room, or a place that was kept for long enough."""
        with self._changed:
            self._place()

    def stop(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _place(self) -> None:
        """Give free places to those that wait, the ones with the most to follow first.

        Not to one that has less to follow than what reads a cell that was brought just now.
        """
        now = time.monotonic()
        held = self._held.values()
        new = [x for x in held if x.brought is not None and now - x.brought < SOON_SECONDS]
        soon = max((one.following for one in new), default=0) - 1
        running = [one.cell for one in held if one.placed and one.brought is None]
        waiting = [one for one in held if not one.placed and one.following >= soon]
        for one in sorted(waiting, key=lambda one: -one.following):
            if self._room(one.cell, running):
                one.placed = True
                running.append(one.cell)
        self._changed.notify_all()
