"""What the DAG itself costs, on the tests' miniature: two arms, one round.

dag_noop   seconds of `omniopd run` when nothing is stale; peer: plain `dvc repro`
dag_stage  seconds a stage of `omniopd run` beyond what the stage says that it took, its process and
           imports included, one stage at a time; peer: the same of plain `dvc repro`
"""

import json
from pathlib import Path

from benchmarks.measure import Row, row, seconds
from tests.project import Project

NOOPS = 3
OURS, PLAIN = ("omniopd", "run"), ("dvc", "repro", "-q")


def rows(scratch: Path) -> list[Row]:
    each = {}
    for name, command in (("ours", OURS), ("plain", PLAIN)):
        project = Project(scratch / name)
        project.run("omniopd", "plan")
        taken = seconds(lambda: project.run(*command))  # noqa: B023
        runs = [json.loads(p.read_text()) for p in project.folder.glob("data/*/c*/run.json")]
        each[name] = (taken - sum(run["seconds"] for run in runs)) / len(runs)
    same = Project.at(scratch / "ours")  # one lock file for both
    noop = [
        (seconds(lambda: same.run(*OURS)), seconds(lambda: same.run(*PLAIN))) for _ in range(NOOPS)
    ]
    told = ("s", "lower", "dvc repro")
    return [
        row("dag_noop", *told, *zip(*noop, strict=True)),
        row("dag_stage", *told, [each["ours"]], [each["plain"]]),
    ]
