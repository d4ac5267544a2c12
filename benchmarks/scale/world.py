"""A simulation of the head, its workers, the store, the remote and Prefect, cell by cell.

    chain of cells ── head: DVC and the flow, one at a time ── a worker: the stage, answers into the
    store, files to the remote ── head: dvc.lock ── Prefect is told, and waited for by nobody

A component is a server: it takes so many at a time, each for the seconds that were measured
(benchmarks/scale/units.py), and the rest wait. Seconds of stages are what an experiment has.
"""

import random
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import simpy

Process = Generator[simpy.Event, Any, Any]
PARTS = 10  # in which a stage's answers reach the store
STAGES = ("rollout", "forks", "teach", "score", "prior", "train")
SPREAD = 0.2  # by which a stage is shorter or longer than the others, drawn


@dataclass(frozen=True)
class Costs:
    """Seconds that a component takes, for one."""

    head: float  # cell: DVC and the flow, in the head's one process
    sent: float  # cell: its files to the remote and from it, in the same process
    remote: float  # cell: what a worker waits for its files
    prefect: float  # cell: until Prefect has it
    add: float  # answer: into the store


@dataclass(frozen=True)
class Experiment:
    """Arms times seeds are `chains`: each round of one needs the round before."""

    chains: int
    rounds: int
    steps: int  # rounds in a cell; 1: a cell for each stage of a round
    seconds: float  # of a stage, for a round
    workers: int
    answers: int = 0  # that a round of a chain buys
    writers: int = 1  # that the store takes at a time

    @property
    def cells(self) -> int:
        """With an evaluation where a checkpoint is."""
        ends = -(-self.rounds // self.steps)
        return self.chains * ends * (len(STAGES) + 1 if self.steps == 1 else 2)


class Server:
    """Takes `width` at a time; others wait in the order in which they came."""

    def __init__(self, world: simpy.Environment, width: int = 1) -> None:
        self._world, self._place = world, simpy.Resource(world, width)
        self.width, self.busy, self.waited, self.last = width, 0.0, 0.0, 0.0

    def work(self, seconds: float) -> Process:
        if not seconds:
            return
        came = self._world.now
        with self._place.request() as place:
            yield place
            self.waited = max(self.waited, self._world.now - came)
            yield self._world.timeout(seconds)
        self.busy += seconds
        self.last = self._world.now


@dataclass(frozen=True)
class Result:
    cells: int
    wall: float  # s until the last cell is done
    bound: float  # s of list scheduling: work by workers, or the longest chain
    busy: dict[str, float]  # share of `wall` that each component works
    waited: dict[str, float]  # s, the longest wait for it
    behind: float  # s by which Prefect ends after the last cell

    @property
    def first(self) -> str:
        """The component that has the least left."""
        return max(self.busy, key=self.busy.__getitem__)


class World:
    """One run of an experiment."""

    def __init__(self, experiment: Experiment, costs: Costs, seed: int = 0) -> None:
        self.experiment, self.costs = experiment, costs
        self.world = simpy.Environment()
        self.draw = random.Random(seed)
        self.head, self.prefect = Server(self.world), Server(self.world)
        self.store = Server(self.world, experiment.writers)
        self.workers = simpy.Resource(self.world, experiment.workers)
        self.worked, self.cells, self.wall, self.longest = 0.0, 0, 0.0, 0.0

    def run(self) -> Result:
        for _ in range(self.experiment.chains):
            self.world.process(self.chain())
        self.world.run()
        servers = {"head": self.head, "store": self.store, "prefect": self.prefect}
        busy = {name: one.busy / one.width / self.wall for name, one in servers.items()}
        return Result(
            cells=self.cells,
            wall=self.wall,
            bound=max(self.worked / self.experiment.workers, self.longest),
            busy={**busy, "workers": self.worked / self.experiment.workers / self.wall},
            waited={name: one.waited for name, one in servers.items()},
            behind=max(self.prefect.last - self.wall, 0.0),
        )

    def chain(self) -> Process:
        """An arm with a seed: its cells one after another, and evaluations beside them."""
        it, length, evaluation = self.experiment, 0.0, 0.0
        for first in range(0, it.rounds, it.steps):
            rounds = min(it.steps, it.rounds - first)
            for stage in STAGES if it.steps == 1 else ("steps",):
                seconds = it.seconds * (1 if it.steps == 1 else rounds * len(STAGES))
                answers = rounds * it.answers if stage in ("teach", "steps") else 0
                seconds = self.drawn(seconds)
                length += seconds
                yield self.world.process(self.cell(seconds, answers))
            evaluation = self.drawn(it.seconds)
            self.world.process(self.cell(evaluation, 0))
        self.longest = max(self.longest, length + evaluation)

    def drawn(self, seconds: float) -> float:
        return seconds * self.draw.uniform(1 - SPREAD, 1 + SPREAD)

    def cell(self, seconds: float, answers: int) -> Process:
        yield from self.head.work((self.costs.head + self.costs.sent) / 2)
        with self.workers.request() as worker:
            yield worker
            yield from self.stage(seconds, answers)
        yield from self.head.work((self.costs.head + self.costs.sent) / 2)
        self.worked += seconds
        self.cells += 1
        self.wall = self.world.now
        self.world.process(self.prefect.work(self.costs.prefect))

    def stage(self, seconds: float, answers: int) -> Process:
        yield self.world.timeout(self.costs.remote)
        parts = PARTS if answers else 1
        for _ in range(parts):
            yield self.world.timeout(seconds / parts)
            yield from self.store.work(answers / parts * self.costs.add)


def simulate(experiment: Experiment, costs: Costs) -> Result:
    """Deterministic: the draws have a seed of their own."""
    return World(experiment, costs).run()


def plan(reads: Mapping[str, Collection[str]], seconds: float, workers: int, costs: Costs) -> float:
    """Seconds that a plan takes, each cell `seconds`; what `reads` names is before what reads it.

    Each cell is done by a worker, and by the head before and after it.
    """
    one = World(Experiment(0, 0, 1, seconds, workers), costs)
    done = {name: one.world.event() for name in reads}

    def cell(name: str) -> Process:
        yield one.world.all_of([done[read] for read in reads[name] if read in done])
        yield from one.cell(seconds, 0)
        done[name].succeed()

    for name in reads:
        one.world.process(cell(name))
    one.world.run()
    return one.wall
