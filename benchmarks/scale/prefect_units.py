"""What the process that shows a run in Prefect costs by cells: what the flow tells of each."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.scale import processes

SIZES = (125, 250, 500, 1_000, 2_000)
CHAINS = 20
WORDS = [sys.executable, "-m", "pipeline.runner.prefect_server"]


def measured(scratch: Path, size: int) -> dict[str, float]:
    empty, folder = scratch / "empty", scratch / "project"
    empty.mkdir()
    processes.measured(WORDS, empty, _told(0))  # makes the database
    shutil.copytree(empty, folder)
    database = folder / ".prefect" / "prefect.db"
    before = database.stat().st_size
    found = processes.measured(WORDS, folder, _told(size))
    return {"size": size, **found, "bytes": database.stat().st_size - before}


def _told(cells: int) -> str:
    """As pipeline/runner/mirror.py writes it."""
    lines: list[dict[str, Any]] = [{"run": "x", "gpu": False, **_state("RUNNING", "Running")}]
    for i in range(cells):
        cell = {"cell": f"c{i}", "label": f"train omniopd round {i} seed 0 (c{i:08x})"}
        cell |= {"gpu": False, "reads": [f"c{i - CHAINS}"] if i >= CHAINS else []}
        lines += [{**cell, **_state("RUNNING", "Running")}]
        lines += [{**cell, **_state("COMPLETED", "Completed")}]
    lines += [{"results": None, **_state("COMPLETED", "Completed")}]
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def _state(type_: str, name: str) -> dict[str, Any]:
    return {"type": type_, "name": name, "message": "", "at": time.time()}
