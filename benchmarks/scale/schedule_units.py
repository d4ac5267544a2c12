"""What the flow's choice of the next cell costs by cells, without DVC and without stages."""

import contextlib
import io
import time
from pathlib import Path
from typing import Any, cast

from pipeline.runner import flow, retention
from pipeline.runner.cell_graph import Cell

SIZES = (2_000, 4_000, 8_000, 16_000)
CHAINS = 20  # that wait for nothing but themselves


class Instant(flow._Flow):
    """A flow whose cells are done as soon as they start."""

    def start(self, cell: Cell) -> None:
        self.finished.put((cell.name, None))


class Nothing:
    """In the place of DVC."""

    def drop(self, names: Any) -> None:
        pass


def measured(scratch: Path, size: int) -> dict[str, float]:
    graph = {}
    for i in range(size):
        reads = frozenset([f"c{i - CHAINS}"] if i >= CHAINS else [])
        graph[f"c{i}"] = Cell(f"c{i}", f"cell {i}", reads)
    project = cast(Any, Nothing())
    made = Instant(project, graph, set(), CHAINS, {}, retention.ALL, [])
    begin = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        made.schedule()
    return {"size": size, "cpu": time.process_time() - begin}
