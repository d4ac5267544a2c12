"""A plan of cells that sleep, in a DVC project without stages of ours: `python -m
tests.runner.workers.sleeping` runs it at its folder's head.

Of each seed one cell that all its arms read in the first round; then for each arm a chain of one
cell a round, which shares nothing; a report. A dvc.yaml for each chain, as `omniopd plan` has it.
"""

import json
import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ARMS, SEEDS, ROUNDS = 4, 4, 2
READY, TOOK = "all workers are there", "seconds of the plan: "


def cells(arms: int = ARMS, seeds: int = SEEDS, rounds: int = ROUNDS) -> dict[str, list[str]]:
    """What each cell reads."""
    found: dict[str, list[str]] = {f"first@s{seed}": [] for seed in range(seeds)}
    for arm in range(arms):
        for seed in range(seeds):
            for round_ in range(rounds):
                before = f"r{round_ - 1}@a{arm}s{seed}" if round_ else f"first@s{seed}"
                found[f"r{round_}@a{arm}s{seed}"] = [before]
    return found


def write(
    folder: Path, seconds: float, reads: dict[str, list[str]], runtime: str, work: str = "sleep"
) -> None:
    """A dvc.yaml for each chain; outs are small files of text that name what was read.

    `runtime`: the block, in params.yaml. `work`: the command that takes `seconds`, its last word;
    what it prints is part of the out.
    """
    files: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, before in reads.items():
        one = name.replace("@", "-")
        deps = [f"out/{x.replace('@', '-')}" for x in before]
        text = f"(cat {' '.join(deps)} said-{one}; echo {one}) > out/{one}"
        card = "echo $CUDA_VISIBLE_DEVICES $(date +%s.%N) >> cards"
        does = f"{work.format(cell=one)} {seconds} > said-{one}"
        cmd = f"mkdir -p out; echo {one} >> runs; {card}; {does} && {card} && {text}"
        wdir = "../../.."
        files[name.partition("@")[2]][one] = {
            "cmd": cmd,
            "wdir": wdir,
            "deps": [*deps, "params.yaml"],
            "outs": [f"out/{one}"],
        }
    for chain, stages in files.items():
        path = folder / "dag" / chain / "all" / "dvc.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"stages": stages}))
    # as the project's own: plain `dvc repro` makes all that this one reads, the flow has it here
    deps = sorted(f"out/{name.replace('@', '-')}" for name in reads)
    last = {"cmd": "cat out/* > report.txt", "deps": deps, "outs": ["report.txt"]}
    (folder / "dvc.yaml").write_text(json.dumps({"stages": {"report": last}}))
    (folder / "reads.json").write_text(json.dumps(reads))
    (folder / "params.yaml").write_text(f"runtime: {runtime}\n")


def bound(seconds: float, reads: dict[str, list[str]], workers: int) -> float:
    """What list scheduling cannot go below: work over workers, and the critical path."""
    length: dict[str, int] = {}
    for name, before in reads.items():
        length[name] = 1 + max((length[one] for one in before), default=0)
    return seconds * max(len(reads) / workers, max(length.values()))


def main(listen: str, on: str = "ray", wanted: str = "0") -> None:
    """Run the plan, once there are as many workers as `wanted`."""
    from pipeline.config import machines
    from pipeline.core import dag_names
    from pipeline.core.errors import UserError
    from pipeline.processes import stopping
    from pipeline.processes.launch.kinds import kind
    from pipeline.runner import flow
    from pipeline.runner.cell_graph import Cell
    from pipeline.runner.workers import pool

    logging.basicConfig(level=logging.INFO)
    reads = json.loads(Path("reads.json").read_text())
    graph = {
        name.replace("@", "-"): Cell(
            name.replace("@", "-"),
            name,
            frozenset(one.replace("@", "-") for one in before),
            kind=kind(name.partition("@")[0]),
        )
        for name, before in reads.items()
    }
    graph[dag_names.REPORT] = Cell(dag_names.REPORT, "report", frozenset(graph))

    @contextmanager
    def workers(changed: Any) -> Iterator[pool.Pool]:
        with pool.opened(on, listen, {"cells": {}}, machines.read(), changed) as found:
            some = next(iter(graph.values()))
            while not found.room(some, [some] * (int(wanted) - 1)):
                time.sleep(0.1)
            sys.stdout.write(f"{READY}\n")
            start = time.monotonic()
            yield found
            sys.stdout.write(f"{TOOK}{time.monotonic() - start:.2f}\n")

    try:
        flow.run_graph(graph, 1, Path("results.md"), workers=workers)
    except stopping.Stopped as error:
        sys.stdout.write(f"error: {error}\n")
        sys.exit(error.status)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main(*sys.argv[1:])
