"""What is where on the workers: outs of cells, and engines that wait for their next stage."""

from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.runner.cell_graph import Cell


class Places:
    """By Ray's names of nodes. A worker keeps the last engine of each role (`resident.py`)."""

    def __init__(self) -> None:
        self._outs: dict[str, str] = {}  # path: the node that made it
        self._engines: dict[str, dict[str, str]] = {}  # node: role: the one that it used last

    def made(self, cell: Cell, node: str, outs: Iterable[str]) -> None:
        """A cell was made there."""
        self._outs |= dict.fromkeys(outs, node)
        self._engines.setdefault(node, {}).update(cell.engines)

    def best(
        self, cell: Cell, reads: Iterable[str], free: Mapping[str, Iterable[Cell]]
    ) -> str | None:
        """The node to make a cell on, of those with a place for it; None where nothing is nearer.

        `free`: each with the cells that it makes now. One where the cell's engine is loaded and at
        rest comes first, as its start takes longer than inputs take to arrive; then the one with
        the most inputs.
        """
        inputs = Counter(self._outs[path] for path in reads if path in self._outs)
        rank = {node: (self._ready(cell, node, runs), inputs[node]) for node, runs in free.items()}
        node = max(rank, key=rank.__getitem__, default=None)
        return node if node is not None and any(rank[node]) else None

    def _ready(self, cell: Cell, node: str, runs: Iterable[Cell]) -> int:
        used = {engine for one in runs for engine in one.engines}
        return len((cell.engines & self._engines.get(node, {}).items()) - used)
