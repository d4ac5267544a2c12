"""List scheduling on workers of this host, with extra `ray`: cells that sleep 15 s.

4 arms x 4 seeds x 2 rounds, and of each seed a cell that its arms share in round 1
(tests/runner/workers/sleeping.py). Head and workers have folders and caches of their own and a
remote that is a folder. Seconds are counted from when all workers are there to the end of the run,
with Prefect told; peer: the bound of list scheduling, the larger of work over workers and the
critical path. The target is 1.1.

workers_two, workers_four    so many workers, each with one cell at a time
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Row, row
from tests.runner.workers import sleeping
from tests.runner.workers.cluster import Hosts

SECONDS = 15
WORKERS = {"two": 2, "four": 4}


def rows(scratch: Path) -> list[Row]:
    return [_row(scratch / name, name, count) for name, count in WORKERS.items()]


def _row(folder: Path, name: str, count: int) -> Row:
    reads = sleeping.cells()
    bound = sleeping.bound(SECONDS, reads, count)
    sys.stderr.write(f"{len(reads)} cells, {count} workers: the bound is {bound:.1f} s\n")
    took = ran(folder, SECONDS, reads, count)
    return row(f"workers_{name}", "s", "lower", "bound", [took], [bound])


def ran(
    folder: Path,
    seconds: float,
    reads: dict[str, list[str]],
    count: int,
    places: int = 1,
    look: Callable[[Hosts], None] = lambda _: None,
) -> float:
    """Seconds that the plan took on so many workers; `look` runs beside it, in a thread."""
    folder.mkdir()
    hosts = Hosts(folder)
    hosts.sleep(seconds, reads)
    try:
        head = hosts.run(*hosts.sleeps, "ray", str(count * places))
        threading.Thread(target=look, args=[hosts], daemon=True).start()
        for number in range(count):
            hosts.worker(number + 1, "--parallel", str(places))
        if head.wait():
            raise RuntimeError(hosts.said("head")[-2000:])
    finally:
        hosts.end()
    if os.environ.get("SHOW"):
        sys.stderr.write(hosts.said("head"))
    said = hosts.said("head").rpartition(sleeping.TOOK)[2]
    return float(said.split()[0])
