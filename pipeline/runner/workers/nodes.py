"""The nodes of a cluster as the head sees them: which take cells, how many, and which have died."""

import time
from collections import Counter
from typing import Any

import typer

from pipeline.processes.launch.kinds import KINDS, Kind
from pipeline.runner.workers.task import warm

CELL = "omniopd-cell"  # Ray's resource: cells at a time on a node; and of each kind, KIND
KIND = "omniopd-"
CARDS = "GPU"  # Ray's own name


class Nodes:
    """Of a connected cluster. A node counts when the processes that its cells get have started."""

    def __init__(self, ray: Any) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray, self._at = ray, NodeAffinitySchedulingStrategy
        self._warm = ray.remote(num_cpus=0, max_retries=0)(warm)
        self._starting: dict[str, list[Any]] = {}  # by node, what its places are doing first
        self._known: set[str] = set()
        self._ready: set[str] = set()
        self.died: dict[str, float] = {}  # since when a node that was alive is not
        self.room: Counter[str] = Counter()  # of CELL, each KIND and CARDS, over all nodes
        self.rooms: dict[str, Counter[str]] = {}  # by node

    def look(self) -> bool:
        """Count again, and say what is new; whether the room is another."""
        alive = {}
        for one in self._ray.nodes():
            if not one["Alive"]:
                self.died.setdefault(one["NodeID"], time.monotonic())
            elif CELL in one["Resources"]:
                alive[one["NodeID"]] = _ours(one["Resources"])
        for node in alive.keys() - self._known:
            self._start(node, alive[node][CELL])
        for node in [*self._starting]:
            self._started(node)
        self.rooms = {node: Counter(r) for node, r in alive.items() if node in self._ready}
        room = sum(self.rooms.values(), Counter[str]())
        if room == self.room:
            return False
        self.room = room
        served = [kind for kind in KINDS if room[f"{KIND}{kind}"]]
        typer.echo(
            f"workers: {len(self.rooms)} with room for {room[CELL]} cells at a time of kinds "
            f"{', '.join(served) or 'none'}"
        )
        return True

    def _start(self, node: str, places: int) -> None:
        """Have a process for cells start in each place, which a cell cannot take meanwhile."""
        self._known.add(node)
        at = self._at(node, soft=False)
        first = self._warm.options(resources={CELL: 1}, scheduling_strategy=at)
        self._starting[node] = [first.remote() for _ in range(places)]

    def _started(self, node: str) -> None:
        refs = self._starting[node]
        done, left = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        if left:
            return
        del self._starting[node]
        try:
            wrong = next(filter(None, self._ray.get(done)), "")
        except self._ray.exceptions.RayError as error:
            wrong = str(error).strip().splitlines()[-1]
        if wrong:
            typer.echo(f"a worker gets no cells: {wrong}")
        else:
            self._ready.add(node)


def _ours(resources: dict[str, float]) -> dict[str, int]:
    names = {CELL, CARDS, *(f"{KIND}{kind}" for kind in KINDS)}
    return {name: int(count) for name, count in resources.items() if name in names}


def offered(cells: int, serves: list[Kind]) -> dict[str, int]:
    """What a worker tells Ray that it has."""
    return {CELL: cells, **{f"{KIND}{kind}": cells for kind in serves}}
