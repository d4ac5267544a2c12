"""What the lines of `omniopd run` and `omniopd repro` say of cells: the flow's own and DVC's.

The locks of cells say most of it (pipeline/commands/status/writers.py), but not of a cell that a
worker on another machine makes, or that waits in a queue.
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from pipeline.commands.status.look import Look, State, Told
from pipeline.core import dag_names

BEGUN = re.compile(r"^(?:\S+ \| )?Running stage '([^']+)'")
NEXT = re.compile(r"^Stage '[^']+' ")  # of DVC alone: it is through with the one before
SAID = re.compile(r"^([a-z][a-z0-9-]*@c[0-9a-f]{8}) \| (.*)")  # of a flow
OVER = re.compile(r"^cell \d+ of \d+: .*\((c[0-9a-f]{8})\) (.*)$")
DONE = re.compile(r"[\d.]+ s|unchanged")
TAIL = 12  # lines that are kept of a cell
FAILED = "failed"
COMMAND = "> "  # DVC says what it starts, which is nothing of how that goes


class Heard:
    """Which cells run or failed, and the last that each said."""

    def __init__(self) -> None:
        self.running: dict[str, str] = {}  # cell: the last that it said
        self.failed: dict[str, str] = {}
        self.done: set[str] = set()  # keys
        self.tails: dict[str, deque[str]] = {}
        self._flow = False  # cells run side by side, and say when they are through

    def line(self, text: str) -> None:
        """Hear one."""
        if (said := SAID.match(text)) is not None:
            self._flow = True
            self._say(said[1], said[2])
        if (begun := BEGUN.match(text)) is not None:
            self._begin(dag_names.cell_of(begun[1]))
        elif (over := OVER.match(text)) is not None:
            self._end(over[1], over[2])
        elif not self._flow:
            for cell in self.running:
                self._say(cell, text)
            if NEXT.match(text):
                self.running.clear()

    def _begin(self, cell: str) -> None:
        if not self._flow:
            self.running.clear()
        self.running[cell], self.tails[cell] = "", deque(maxlen=TAIL)
        self.failed.pop(cell, None)
        self.done.discard(_key(cell))

    def _say(self, cell: str, text: str) -> None:
        if cell in self.running:
            if not text.startswith(COMMAND):
                self.running[cell] = text
            self.tails[cell].append(text)

    def _end(self, key: str, outcome: str) -> None:
        if DONE.fullmatch(outcome):
            self.done.add(key)
        for cell in [one for one in self.running if _key(one) == key]:
            last = self.running.pop(cell)
            if outcome == FAILED:
                self.failed[cell] = last
            else:
                del self.tails[cell]

    def over(self, look: Look) -> Look:
        """A look with what was heard of cells that no lock tells of."""
        return replace(look, cells=[self._told(one) for one in look.cells])

    def _told(self, one: Told) -> Told:
        state: State
        for state, cells in (("running", self.running), ("failed", self.failed)):
            if one.cell in cells and one.state not in ("running", "failed", "done"):
                return replace(one, state=state, reason=cells[one.cell], waits_for=())
        if _key(one.cell) in self.done and one.state in ("ready", "waiting"):
            return replace(one, state="done", reason="", waits_for=())  # it lies at a worker's
        return one

    def complaint(self) -> Sequence[str]:
        """The last lines of cells that failed, or were running when all ended."""
        cells = self.failed or self.running
        return [f"{cell} | {text}" for cell in cells for text in self.tails[cell]]


def _key(cell: str) -> str:
    return cell.rpartition("@")[2]
