"""The plan's cells as the flow runs them: what each reads, is called, and how it is started."""

import bisect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.plan import expand, step_cells
from pipeline.processes.launch.kinds import Kind, kind

RETRIES = {"teach": 2}  # the store keeps its answers, so that another try asks for fewer


@dataclass(frozen=True)
class Cell:
    """A cell as the flow sees it."""

    name: str  # GROUP@KEY
    label: str  # for people
    reads: frozenset[str]  # names of cells
    gpu: bool = False  # it wants this machine's
    retries: int = 1  # where its stage was killed; never where it refused its input
    kind: Kind = "cpu"
    engines: frozenset[tuple[str, str]] = frozenset()  # of vLLM: role and which


def graph(found: dict[str, Any], gpu: bool) -> dict[str, Cell]:
    """The plan's cells in dependency order, stage `plan` first. `gpu`: those that load a model
    want this machine's."""
    labels = _labels(found)
    built = {"plan": Cell("plan", "plan", frozenset())}
    for name, reads in expand.upstream(found).items():
        group, _, key = name.partition("@")
        built[name] = Cell(
            name=name,
            label=f"{labels.get(key, group)} ({key})",
            reads=frozenset(reads or {"plan"}),
            gpu=gpu and kind(group) == "gpu",
            retries=max(RETRIES.get(one, 1) for one in step_cells.stages(found, group, key)),
            kind=kind(group),
            engines=_engines(found, group, key),
        )
    return built


def _engines(found: dict[str, Any], group: str, key: str) -> frozenset[tuple[str, str]]:
    """Those that may wait for the cell on a worker. A student's takes any student's weights."""
    cell = found["cells"][group][key]
    steps = cell["params"]["stages"].values() if group.startswith("steps") else [{"group": group}]
    loaded = [one["group"] for one in steps if "vllm" in one["group"].split("-")]
    return frozenset(
        ("teacher", str(cell["teacher"])) if one.startswith("teach-") else ("student", "")
        for one in loaded
    )


def title(found: dict[str, Any]) -> str:
    """The experiment in one line: its folder, arms, rounds and seeds."""
    named = found["cells"]["arms"]
    first, *others = sorted(named, key=lambda arm: arm == "base")  # which every experiment has
    arms = f"{first} and {len(others)} more arms" if others else f"arm {first}"
    rounds = {one for seeds in named.values() for own in seeds.values() for one in own}
    seeds = {one for own in named.values() for one in own}
    count = len(rounds - {"round-0"})
    return f"{Path.cwd().name}: {arms}, {_some(count, 'round')}, {_some(len(seeds), 'seed')}"


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _labels(found: dict[str, Any]) -> dict[str, str]:
    """Key: stage and the first arm that uses the cell, with round, seed and how many more do."""
    users: dict[str, list[str]] = {}
    spans = step_cells.spans(found)
    for arm, seeds in expand.named(found).items():
        for seed, rounds in seeds.items():
            for round_, stages in rounds.items():
                for stage, key in stages.items():
                    kind, which = key.split("/")[1] if "/" in key else stage, round_
                    if key in spans:
                        kind, which = "steps", "rounds {}-{}".format(*spans[key])
                    where = f"{kind} {arm} {which.replace('round-', 'round ')} {seed}"
                    label = where.replace("seed-", "seed ")
                    users.setdefault(key.rpartition("/")[2], []).append(label)
    users = {key: list(dict.fromkeys(labels)) for key, labels in users.items()}
    return {
        key: first + (f" and {len(others)} more" if others else "")
        for key, (first, *others) in users.items()
    }


def waiting_chains(graph: dict[str, Cell]) -> dict[str, int]:
    """Length of the longest chain of cells that waits for each cell."""
    length = dict.fromkeys(graph, 0)
    for name in reversed(graph):
        for read in graph[name].reads:
            length[read] = max(length[read], length[name] + 1)
    return length


class Ready:
    """Cells that could start, as all that they read is done: those with the most to follow first.

    It looks at what reads a cell that ended: a look at every cell took 20 s at 16,000, and grew
    with the square.
    """

    def __init__(self, graph: dict[str, Cell]) -> None:
        self.following = waiting_chains(graph)
        names = sorted(graph, key=lambda name: -self.following[name])
        self._place = {name: place for place, name in enumerate(names)}
        self._missing = {name: len(cell.reads) for name, cell in graph.items()}
        self._readers: dict[str, list[str]] = {name: [] for name in graph}
        for name, cell in graph.items():
            for read in cell.reads:
                self._readers[read].append(name)
        self.names = [name for name in names if not self._missing[name]]

    def done(self, name: str) -> None:
        """A cell is done, failed or skipped."""
        for reader in self._readers[name]:
            self._missing[reader] -= 1
            if not self._missing[reader]:
                bisect.insort(self.names, reader, key=self._place.__getitem__)
