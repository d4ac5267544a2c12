"""What DVC and `omniopd plan` cost by cells of profile study, and a folder as remote by objects."""

import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import dag, finished
from benchmarks.scale import processes

SIZES = ((5, 1), (15, 1), (29, 1), (29, 2), (29, 5))  # arms, seeds: the last has some 2,000 cells
REPEATS = (3, 3, 3, 3, 1)


def study(arms: int, seeds: int) -> dict[str, Any]:
    """Profile study with so many of its arms."""
    values = dag._seeds(seeds)
    values["experiment"]["arms"] = values["experiment"]["arms"][:arms]
    values["experiment"]["branch"] = []
    return values


def measured(scratch: Path, size: tuple[int, int]) -> dict[str, float]:
    """`size` is the count of cells, `files` that of objects in the cache."""
    project = finished.now(scratch / "project", study(*size), ran=True)
    folder, repeats = project.folder, REPEATS[SIZES.index(size)]
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    processes.dvc(folder, "repro", "-q")  # DVC notes which files it has looked at
    noops = [processes.dvc(folder, "repro", "-q") for _ in range(repeats)]
    plan = [sys.executable, "-P", "-m", "pipeline.commands.entry", "plan"]
    plans = [processes.measured(plan, folder) for _ in range(repeats)]
    objects = [one for one in (folder / ".dvc/cache/files").rglob("*") if one.is_file()]
    return {
        "size": len(list((folder / "outs").iterdir())),
        "files": len(objects),
        **_median("noop", noops),
        **_median("plan", plans),
        **remote(folder, "folder", str(scratch / "remote")),
    }


def _median(name: str, found: list[dict[str, float]]) -> dict[str, float]:
    return {f"{name}_{what}": statistics.median(one[what] for one in found) for what in found[0]}


def remote(folder: Path, name: str, url: str, endpoint: str = "") -> dict[str, float]:
    """Push all, ask whether all is there, and fetch all into an empty cache."""
    processes.dvc(folder, "remote", "add", "-q", "-d", "-f", name, url)
    if endpoint:
        processes.dvc(folder, "remote", "modify", "-q", name, "endpointurl", endpoint)
    push = processes.dvc(folder, "push", "-q")
    status = processes.dvc(folder, "status", "-c", "-q")
    shutil.rmtree(folder / ".dvc/cache")
    fetch = processes.dvc(folder, "fetch", "-q")
    return {
        f"{name}_{what}_{key}": one[key]
        for what, one in (("push", push), ("status", status), ("fetch", fetch))
        for key in ("cpu", "wall")
    }
