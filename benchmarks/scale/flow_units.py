"""What the head of `omniopd run` costs by cells that do nothing: each writes a few bytes.

The head is a process of its own: DVC's work, threads and the choice of what starts. What it starts
(stages, Prefect's process) is not in it.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import finished, measure
from benchmarks.scale.dag_units import study
from pipeline.plan import expand, experiment
from pipeline.runner import cell_graph, flow
from pipeline.runner.dag import plan_files

SIZES = ((2, 1), (5, 1), (12, 1), (20, 1), (29, 1))  # arms, seeds
PARALLEL = 2


def measured(scratch: Path, size: tuple[int, int]) -> dict[str, float]:
    return ran(finished.now(scratch / "project", study(*size), ran=False).folder, PARALLEL)


def ran(folder: Path, parallel: int) -> dict[str, float]:
    """The head of a run of a project that nothing ran in."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale.flow_units", str(parallel)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(finished.ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run the project here, with so many cells at a time."""
    path = f"{Path('bin').absolute()}{os.pathsep}{os.environ['PATH']}"
    plan_files.environment = lambda: {**os.environ, "PATH": path}  # the stand-in for `omniopd`
    with contextlib.redirect_stdout(sys.stderr):
        graph = cell_graph.graph(expand.expand(experiment.load()), gpu=False)
        cpu, start = time.process_time(), time.perf_counter()
        flow.run_graph(graph, int(sys.argv[1]))
    found = {
        "size": len(graph),
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - start,
        "mib": measure._kib("VmHWM") / 1024,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
