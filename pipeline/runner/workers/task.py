"""What Ray runs: a task for each cell on a worker, and the head's desk.

A Ray process only starts the carrier, so that what a stage does to its process hurts nobody.
"""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from pipeline.processes.subprocesses import by_lines, shown

READY = "\x1eomniopd is ready\n"  # a carrier's first line, when it has imported all that it needs
MARK = "\x1eomniopd result: "  # before what came of a cell, on a line of its carrier's
LOST = 137  # as of a stage that was killed: the flow may try again
CARDS = "_VISIBLE_DEVICES"  # ends names of variables by which Ray says which cards a task has
FOLDER = "OMNIOPD_WORKER_FOLDER"  # in the environment of a node: where its cells are made
OWN = "OMNIOPD_WORKER_OWN"  # likewise: as JSON what the worker itself has of RAYS
RAYS = ("OMP_NUM_THREADS", "PYTHONBREAKPOINT")  # Ray sets them for its own processes


class Desk:
    """An actor at the head: who has a cell, by a number that grows, and what stages say."""

    def __init__(self) -> None:
        self.holders: dict[str, int] = {}
        self.tries: Counter[str] = Counter()
        self.nodes: dict[str, str] = {}  # of the holders
        self.orders: dict[str, int] = {}  # of each cell the oldest that still counts
        self.lines: list[tuple[str, str]] = []

    def claim(self, cell: str, order: int, who: str, node: str) -> int:
        """A number for a holder of the cell; what those before it bring is refused from now on.

        0 for one whose order was given up.
        """
        if order < self.orders.get(cell, 0):
            return 0
        self.holders[cell] = number = self.holders.get(cell, 0) + 1
        self.nodes[cell] = node
        self.tries[cell] += 1
        again = f", try {self.tries[cell]}" if self.tries[cell] > 1 else ""
        self.lines.append((cell, f"launch: runs on {who}{again}"))
        return number

    def give_up(self, cell: str, order: int) -> None:
        """Who has the cell by this order, or gets it by it later, has it no more."""
        self.orders[cell] = order + 1
        self.holders[cell] = self.holders.get(cell, 0) + 1
        self.nodes.pop(cell, None)

    def holds(self, cell: str, number: int) -> bool:
        return self.holders.get(cell) == number

    def say(self, cell: str, number: int, line: str) -> None:
        if self.holds(cell, number):
            self.lines.append((cell, line))

    def taken(self, running: Iterable[str]) -> tuple[list[tuple[str, str]], dict[str, str]]:
        """What was said since this was last asked, and the node of each running cell's holder."""
        found, self.lines = self.lines, []
        return found, {cell: self.nodes[cell] for cell in running if cell in self.nodes}


def warm() -> str:
    """Have a carrier for the first cell that this process gets; what went wrong, or nothing."""
    process = _carrier()
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        if line == READY:
            _waiting.append(process)
            return ""
        said.append(line.strip())
    return f"a process for cells ended with status {process.wait()}: {' '.join(said[-3:])}"


def carry(asked: dict[str, Any], desk: Any) -> dict[str, Any]:
    """Make a cell on this node; what came of it, with the holder's number and the node."""
    import ray

    cell = asked["cell"]
    who = f"{socket.gethostname()} in {os.environ[FOLDER]}"
    node = ray.get_runtime_context().get_node_id()
    number = ray.get(desk.claim.remote(cell, asked["order"], who, node))
    if not number:
        return {"status": LOST}
    cards = {name: value for name, value in os.environ.items() if name.endswith(CARDS)}
    # a carrier may have been started while this process had another cell and other cards
    found = _carried({**asked, "cards": cards}, lambda line: desk.say.remote(cell, number, line))
    return {**found, "number": number, "node": node}


_waiting: list["subprocess.Popen[str]"] = []  # carriers without a cell


def _carried(asked: dict[str, Any], line: Callable[[str], Any]) -> dict[str, Any]:
    """What a carrier says came of the cell, or that it was killed."""
    process = _carrier()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()  # and open: its end is ours
    for said in process.stdout:
        if said.startswith(MARK):
            _waiting.append(process)
            return dict(json.loads(said.removeprefix(MARK)))
        if said.strip() and said != READY:
            line(shown(said))
    status = process.wait()
    return {"status": status if status > 0 else 128 - status}


def _carrier() -> "subprocess.Popen[str]":
    while _waiting:
        if (found := _waiting.pop()).poll() is None:
            return found
    return _started()


def _started() -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pipeline.runner.workers.carrier"],
        cwd=os.environ[FOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    by_lines(process)
    return process
