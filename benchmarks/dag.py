"""What the DAG itself costs: CPU seconds of plain `dvc repro`, beside the project at an old commit.

Stages are scripts that write a few bytes (benchmarks/finished.py). The default experiment, and the
old commit on the same: one DVC, one machine, one run.

dag_default_noop     nothing is stale; CPU seconds
dag_default_stage    every cell runs once; CPU seconds a stage beyond the no-op
dag_default_restore  seconds until everything is back after data/ was deleted: `dvc checkout`, then
                     `dvc repro`; peer: `dvc repro` alone, which restores stage by stage
dag_study_noop       of profile study, all seeds; peer: the target, 15 CPU seconds
dag_study_stage      likewise, of each stage run where all evaluations and the report run; peer: .3
dag_study_memory     MiB; peer: 250
dag_growth           the power of the number of cells that CPU seconds of a no-op grow with, from
                     500 to 10,000 cells; peer: 1.1. Only where it is asked for by GROWTH=1, as
                     are the next two: minutes
dag_growth_memory    MiB of the no-op of the most; peer: 250
dag_growth_noop      CPU seconds of it; peer: those of the fewest
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import finished
from benchmarks.before import COMMIT
from benchmarks.measure import Row, row, seconds
from pipeline.plan import experiment

ROOT = Path(__file__).parent.parent
NOOPS = 3
GROWTH = {500: 1, 2_000: 3, 10_000: 17}  # about so many cells of profile study: its seeds


def rows(scratch: Path) -> list[Row]:
    found = [*_default(scratch), *_study(scratch / "study")]
    return found + (_growth(scratch) if os.environ.get("GROWTH") else [])


def _default(scratch: Path) -> list[Row]:
    values = experiment.read_yaml(ROOT / "params.yaml")
    both = (
        finished.now(scratch / "now", values, ran=False),
        finished.as_it_was(scratch / "before"),
    )
    full = [one.dvc("repro", "-q")[0] for one in both]
    noops = [tuple(one.dvc("repro", "-q")[0] for one in both) for _ in range(NOOPS)]
    least = [min(taken) for taken in zip(*noops, strict=True)]
    count = len(list((scratch / "now" / "outs").iterdir()))
    each = [[(all_ - one) / count] for all_, one in zip(full, least, strict=True)]
    return [
        row("dag_default_noop", "CPU s", "lower", COMMIT, *zip(*noops, strict=True)),
        row("dag_default_stage", "CPU s", "lower", COMMIT, *each),
        row("dag_default_restore", "s", "lower", COMMIT, *[[_restored(one)] for one in both]),
    ]


def _restored(project: finished.Project) -> float:
    project.lose()
    checkout = (project.folder / "dag").is_dir()
    return seconds(lambda: [project.dvc("checkout", "-q")] * checkout) + seconds(
        lambda: project.dvc("repro", "-q")
    )


def _study(folder: Path) -> list[Row]:
    project = finished.now(folder, _seeds(GROWTH[2_000]), ran=True)
    project.dvc("repro", "-q")  # DVC notes which files it has looked at
    noops = [project.dvc("repro", "-q") for _ in range(NOOPS)]
    taken, mib = zip(*noops, strict=True)
    lock = project.folder / "code" / "evaluate-arithmetic.lock"
    lock.write_text("another\n")  # all evaluations run, and the report that reads what they wrote
    stage = project.dvc("repro")[0] - min(taken)
    stage /= project.said.count("Running stage")
    told = ("lower", "target")
    return [
        row("dag_study_noop", "CPU s", *told, taken, [15.0] * len(taken)),
        row("dag_study_stage", "CPU s", *told, [stage], [0.3]),
        row("dag_study_memory", "MiB", *told, mib, [250.0] * len(mib)),
    ]


def _growth(scratch: Path) -> list[Row]:
    return growth_rows([_point(grown(scratch, cells)) for cells in GROWTH])


def grown(scratch: Path, cells: int) -> finished.Project:
    """Profile study with about so many cells, which all ran and which DVC has looked at."""
    project = finished.now(scratch / f"of-{cells}", _seeds(GROWTH[cells]), ran=True)
    project.dvc("repro", "-q")
    return project


def _point(project: finished.Project) -> tuple[int, float, float]:
    """Cells, and CPU seconds and MiB of a no-op."""
    return len(list((project.folder / "outs").iterdir())), *project.dvc("repro", "-q")


def growth_rows(points: Sequence[tuple[int, float, float]]) -> list[Row]:
    (few, short, _), *_, (many, long, mib) = points
    power = math.log(long / short) / math.log(many / few)
    told = ("lower", "target")
    return [
        row("dag_growth", "power of the cells", *told, [power], [1.1]),
        row("dag_growth_memory", "MiB", *told, [mib], [250.0]),
        row(
            "dag_growth_noop", f"CPU s, {many:,} cells", "lower", f"{few:,} cells", [long], [short]
        ),
    ]


def _seeds(count: int) -> dict[str, Any]:
    values: dict[str, Any] = experiment.read_yaml(
        ROOT / "pipeline/commands/profiles" / "study.yaml"
    )
    values["experiment"]["seeds"] = list(range(count))
    return values
