"""Cells that do nothing, on two workers of this host with two places each: 2,000 beside 500.

Chains of 25 as benchmarks/workers.py has them. Memory is the largest RSS of a process over the run,
MiB; peer: the same with 500. The cells' seconds are wall time from when the workers are there to
the end of the run.

thousands_cell      seconds a cell
thousands_cpu       CPU seconds a cell of the head's own process
thousands_head      memory of the head's own process, `omniopd run`
thousands_ray       of Ray's store at the head, gcs_server
thousands_prefect   of the process with Prefect's server, on SQLite
thousands_told      seconds a cell that Prefect takes when it is told alone, as fast as it can; of
                    what a run of so many cells tells
thousands_database  bytes a cell of Prefect's database then
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import psutil

from benchmarks.measure import Row, row
from benchmarks.workers import ran
from pipeline.runner import mirror
from tests.runner.workers import sleeping
from tests.runner.workers.cluster import Hosts

SEEDS = {500: 5, 2_000: 20}
ROUNDS, WORKERS, PLACES = 25, 2, 2
LOOK_SECONDS = 1.0
HEAD, STORE, PREFECT = "tests.runner.workers.sleeping", "gcs_server", "prefect_server"
NAMES = {HEAD: "head", STORE: "ray", PREFECT: "prefect"}


def rows(scratch: Path) -> list[Row]:
    few, many = (_measured(scratch / str(count), seeds) for count, seeds in SEEDS.items())
    small, large = (_told(scratch / f"told-{count}", count) for count in SEEDS)
    units = {"cell": "s", "cpu": "CPU s", "told": "s", "database": "bytes"}
    return [
        row(f"thousands_{name}", units.get(name, "MiB"), "lower", "500 cells", [big], [little])
        for name, big, little in (
            *((name, many[name], few[name]) for name in few),
            *((name, large[name], small[name]) for name in small),
        )
    ]


def _measured(folder: Path, seeds: int) -> dict[str, float]:
    reads = sleeping.cells(arms=4, seeds=seeds, rounds=ROUNDS)
    most: dict[str, float] = defaultdict(float)
    over = threading.Event()

    def look(hosts: Hosts) -> None:
        while not over.wait(LOOK_SECONDS):
            with contextlib.suppress(psutil.Error):
                _weigh(psutil.Process(hosts.processes["head"].pid), most)

    try:
        seconds = ran(folder, 0, reads, WORKERS, PLACES, look)
    finally:
        over.set()
    sys.stderr.write(f"{len(reads)} cells: {seconds:.0f} s, {json.dumps(most)}\n")
    each = {"cell": seconds / len(reads), "cpu": most["cpu"] / len(reads)}
    return {**each, **{name: most[name] for name in NAMES.values()}}


def _weigh(head: psutil.Process, most: dict[str, float]) -> None:
    for process in (head, *head.children(recursive=True)):
        words = " ".join(process.cmdline())
        for text, name in NAMES.items():
            if text in words and (name != "head" or process == head):
                most[name] = max(most[name], process.memory_info().rss / 2**20)
                if name == "head":
                    most["cpu"] = process.cpu_times().user + process.cpu_times().system


def _told(folder: Path, count: int) -> dict[str, float]:
    """What Prefect's process takes for a run of so many cells: scheduled, running, completed."""
    (folder / mirror.HOME).mkdir(parents=True)
    lines = [_line({"run": "a" * 32, "gpu": False}, "RUNNING", "Running")]
    for number in range(count):
        reads = [f"c{number - 1}"] if number % ROUNDS else []
        about = {"cell": f"c{number}", "label": f"cell {number}", "gpu": False, "reads": reads}
        lines += [_line(about, "RUNNING", "Running"), _line(about, "PENDING", "Queued")]
        lines += [_line(about, "RUNNING", "Running"), _line(about, "COMPLETED", "Completed")]
    lines.append(_line({"results": None}, "COMPLETED", "Completed"))
    start = time.perf_counter()
    command = [sys.executable, "-P", "-m", "pipeline.runner.prefect_server"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        command,
        input="".join(lines),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].startswith("done")
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in (folder / mirror.HOME).glob("prefect.db*"))
    sys.stderr.write(f"Prefect, {count} cells: {seconds:.0f} s, {size / 2**20:.1f} MiB\n")
    return {"told": seconds / count, "database": size / count}


def _line(about: dict[str, object], type_: str, name: str) -> str:
    state = {"type": type_, "name": name, "message": "", "at": time.time()}
    return json.dumps({**about, **state}) + "\n"
