"""How long `omniopd run` takes by the clock where each cell sleeps: what the simulation predicts.

Nothing is fitted here: the simulation knows the plan, how long a cell sleeps, how many run at a
time, and the unit costs of the head.
"""

from pathlib import Path

from benchmarks import finished
from benchmarks.scale.dag_units import study
from benchmarks.scale.flow_units import ran
from pipeline.plan import expand, experiment

SIZES = ((2, 1), (5, 1), (8, 1), (12, 1))  # arms, seeds
SECONDS, PARALLEL = 5.0, 4


def reads(size: tuple[int, int]) -> dict[str, set[str]]:
    """The cells of the plan that sleep, and which of them each reads."""
    return dict(expand.upstream(expand.expand(experiment.of(study(*size), "params"))))


def measured(scratch: Path, size: tuple[int, int]) -> dict[str, float]:
    project = finished.now(scratch / "project", study(*size), ran=False)
    script = project.folder / "bin" / "omniopd"
    begin, loop, end = script.read_text().partition("while ")
    script.write_text(f"{begin}sleep {SECONDS}\n{loop}{end}")
    return ran(project.folder, PARALLEL)
