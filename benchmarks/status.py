"""What a look at a finished experiment costs: `omniopd status` beside `dvc status`, CPU seconds.

status_default  the default experiment, 79 cells
status_study    profile study, 1,964 cells
"""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import dag, finished
from benchmarks.measure import Row, row
from pipeline.plan import experiment

REPEATS = 5
OURS = ("-m", "pipeline.commands.entry", "status")


def rows(scratch: Path) -> list[Row]:
    default = experiment.read_yaml(dag.ROOT / "params.yaml")
    study = dag._seeds(dag.GROWTH[2_000])
    return [_row(scratch, "default", default), _row(scratch, "study", study)]


def _row(scratch: Path, name: str, values: dict[str, Any]) -> Row:
    project = finished.now(scratch / name, values, ran=True)
    project.dvc("status", "-q")  # DVC notes which files it has looked at
    pairs = [(_ours(project.folder), project.dvc("status", "-q")[0]) for _ in range(REPEATS)]
    return row(f"status_{name}", "CPU s", "lower", "dvc status", *zip(*pairs, strict=True))


def _ours(folder: Path) -> float:
    store = f"sqlite:///{folder / 'judgments.sqlite'}"
    environment = {**os.environ, "PYTHONPATH": str(dag.ROOT), "JUDGMENTS_URL": store}
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *OURS], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime - begun.ru_utime + ended.ru_stime - begun.ru_stime
