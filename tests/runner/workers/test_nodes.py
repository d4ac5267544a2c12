"""Which nodes count, and what room there is for one more cell; with a stand-in for a cluster."""

from typing import Any, NamedTuple

import pytest

from pipeline.config.machines import Machines
from pipeline.runner.cell_graph import Cell
from pipeline.runner.workers.nodes import Nodes, offered
from pipeline.runner.workers.pool import Pool

exceptions = pytest.importorskip("ray.exceptions", reason="extra ray is not installed")


class Started(NamedTuple):
    node: str


class Cluster:
    """Nodes by name, whether they live, and what the first process of each says, if it has."""

    def __init__(self) -> None:
        self.alive: dict[str, bool] = {}
        self.said: dict[str, str | Exception] = {}
        self.exceptions = exceptions
        self.places = offered(2, ["gpu", "cpu"])

    def nodes(self) -> list[dict[str, Any]]:
        resources = {**self.places, "GPU": 1.0, "node:x": 1.0}
        return [
            {"NodeID": one, "Alive": alive, "Resources": resources}
            for one, alive in self.alive.items()
        ]

    def remote(self, **_: Any) -> Any:
        return lambda _: self

    def options(self, scheduling_strategy: Any, **_: Any) -> Any:
        class Task:
            remote = staticmethod(lambda: Started(scheduling_strategy.node_id))

        return Task

    def wait(self, refs: list[Started], **_: Any) -> tuple[list[Started], list[Started]]:
        done = [one for one in refs if one.node in self.said]
        return done, [one for one in refs if one not in done]

    def get(self, refs: list[Started]) -> list[str]:
        found = [self.said[one.node] for one in refs]
        for one in found:
            if isinstance(one, Exception):
                raise one
        return [str(one) for one in found]


A, B = "a" * 56, "b" * 56


def test_a_node_counts_when_its_processes_have_started_and_until_it_dies() -> None:
    cluster = Cluster()
    nodes = Nodes(cluster)
    cluster.alive = {A: True, B: True}
    assert not nodes.look()
    cluster.said[A] = ""
    assert nodes.look()
    assert nodes.room == {"omniopd-cell": 2, "omniopd-gpu": 2, "omniopd-cpu": 2, "GPU": 1}
    cluster.alive[A] = False
    assert nodes.look()
    assert not nodes.room
    assert set(nodes.died) == {A}


@pytest.mark.parametrize("said", ["no module dvc", exceptions.RayError("its process died")])
def test_a_node_on_which_no_process_starts_gets_no_cell(
    said: str | Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster()
    nodes = Nodes(cluster)
    cluster.alive, cluster.said = {A: True}, {A: said}
    assert not nodes.look()
    assert not nodes.room
    assert f"a worker gets no cells: {said}" in capsys.readouterr().out


def test_room_is_by_place_by_kind_and_by_card() -> None:
    cluster = Cluster()
    pool = Pool.__new__(Pool)
    pool._nodes = Nodes(cluster)
    cluster.alive, cluster.said = {A: True}, {A: ""}
    pool._nodes.look()
    pool._runtime = Machines.model_validate({"device": "cuda", "gpu_share": {"evaluate": 0.5}})
    small, large, other, hosted = (
        Cell(f"{group}@c1", group, frozenset(), kind=kind)
        for group, kind in (
            *(("evaluate-x", "gpu"), ("train-sft", "gpu")),
            *(("score", "cpu"), ("teach-hosted", "api")),
        )
    )
    assert pool.room(small, [small])
    assert not pool.room(large, [small])
    assert not pool.room(small, [large])
    assert pool.room(other, [large])
    assert not pool.room(other, [large, other])
    assert not pool.room(hosted, [])
