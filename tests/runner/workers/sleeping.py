"""A plan of cells that sleep, in a DVC project without stages of ours: `python -m
tests.runner.workers.sleeping` runs it at its folder's head.

ARMS x SEEDS chains of one cell a round, behind one cell that all read in the first.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

ARMS, SEEDS, ROUNDS = 4, 4, 2


def cells(arms: int = ARMS, seeds: int = SEEDS, rounds: int = ROUNDS) -> dict[str, list[str]]:
    """What each cell reads."""
    found: dict[str, list[str]] = {"first@a": []}
    for chain in (f"a{arm}s{seed}" for arm in range(arms) for seed in range(seeds)):
        for round_ in range(rounds):
            found[f"r{round_}@{chain}"] = [f"r{round_ - 1}@{chain}" if round_ else "first@a"]
    return found


def write(folder: Path, seconds: float, reads: dict[str, list[str]]) -> None:
    """dvc.yaml, as small files of text that name what was read."""
    stages: dict[str, Any] = {}
    for name, before in reads.items():
        one = name.replace("@", "-")
        deps = [f"out/{x.replace('@', '-')}" for x in before]
        text = f"(cat {' '.join(deps)} /dev/null; echo {one}) > out/{one}"
        cmd = f"mkdir -p out; echo {one} >> runs; sleep {seconds}; {text}"
        stages[one] = {"cmd": cmd, "deps": [*deps, "params.yaml"], "outs": [f"out/{one}"]}
    (folder / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    (folder / "params.yaml").write_text("runtime: {device: cpu}\n")


def bound(seconds: float, reads: dict[str, list[str]], workers: int) -> float:
    """What list scheduling cannot go below: work over workers, and the critical path."""
    length: dict[str, int] = {}
    for name, before in reads.items():
        length[name] = 1 + max((length[one] for one in before), default=0)
    return seconds * max(len(reads) / workers, max(length.values()))


def main(listen: str, on: str = "ray") -> None:
    from pipeline.config import machines
    from pipeline.core.errors import UserError
    from pipeline.processes import stopping
    from pipeline.runner import flow
    from pipeline.runner.cell_graph import Cell
    from pipeline.runner.workers import pool

    logging.basicConfig(level=logging.INFO)
    stages = json.loads(Path("dvc.yaml").read_text())["stages"]
    graph = {
        name: Cell(name, name, frozenset(d[4:] for d in one["deps"] if d.startswith("out/")))
        for name, one in stages.items()
    }

    def workers(changed):  # type: ignore[no-untyped-def]
        return pool.opened(on, listen, {"cells": {}}, machines.read(), changed)

    try:
        flow.run_graph(graph, 1, Path("results.md"), workers=workers)
    except stopping.Stopped as error:
        sys.stdout.write(f"error: {error}\n")
        sys.exit(error.status)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
