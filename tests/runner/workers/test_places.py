"""On which node a cell is made: by its engine, then by its inputs."""

import yaml

from pipeline.plan import expand, experiment
from pipeline.runner import cell_graph
from pipeline.runner.cell_graph import Cell
from pipeline.runner.workers.places import Places
from tests.project import ROOT

STUDENT, TEACHER = ("student", ""), ("teacher", "data/pretrain/c1")
A, B = "a" * 56, "b" * 56


def cell(name: str, *engines: tuple[str, str]) -> Cell:
    return Cell(name, name, frozenset(), kind="gpu", engines=frozenset(engines))


def test_a_cell_goes_where_most_of_its_inputs_are() -> None:
    places, score = Places(), cell("score@c1")
    places.made(cell("rollout@c1"), A, ["rollouts"])
    places.made(cell("forks@c1"), B, ["forks"])
    places.made(cell("teach@c1"), B, ["answers"])
    reads = ["rollouts", "forks", "answers"]
    assert places.best(score, reads, {A: [], B: []}) == B
    assert places.best(score, reads, {A: []}) == A
    assert places.best(score, reads, {}) is None
    assert places.best(score, ["others"], {A: [], B: []}) is None


def test_an_engine_at_rest_counts_more_than_inputs() -> None:
    places = Places()
    places.made(cell("rollout-vllm@c1", STUDENT), A, ["rollouts"])
    places.made(cell("train@c1"), B, ["policy", "prompts"])
    second, reads = cell("rollout-vllm@c2", STUDENT), ["policy", "prompts"]
    assert places.best(second, reads, {A: [], B: []}) == A
    assert places.best(second, reads, {A: [cell("score@c3")], B: []}) == A
    in_use = [cell("evaluate-vllm@c4", STUDENT)]
    assert places.best(second, reads, {A: in_use, B: []}) == B
    assert places.best(cell("teach-vllm@c5", TEACHER), ["rollouts"], {A: [], B: []}) == A


def test_a_teachers_engine_makes_room_for_another_teachers() -> None:
    places, other = Places(), ("teacher", "data/pretrain/c2")
    places.made(cell("teach-vllm@c1", TEACHER), A, [])
    places.made(cell("rollout-vllm@c1", STUDENT), A, [])
    places.made(cell("teach-vllm@c2", other), A, [])
    free: dict[str, list[Cell]] = {B: [], A: []}
    assert places.best(cell("teach-vllm@c3", TEACHER), [], free) is None
    assert places.best(cell("teach-vllm@c4", other), [], free) == A
    assert places.best(cell("evaluate-vllm@c1", STUDENT), [], free) == A


def test_the_plan_says_which_engines_a_cell_uses() -> None:
    found = graph(1)
    own = {name.partition("@")[0]: one.engines for name, one in found.items()}
    ((role, which),) = own["teach-vllm"]
    assert role == "teacher"
    assert which.startswith("data/pretrain/c")
    assert own["rollout-vllm"] == own["evaluate-vllm"] == {STUDENT}
    assert not own["train"] | own["pretrain"] | own["report"]
    steps = graph(2)
    (several,) = [one for name, one in steps.items() if name.startswith("steps@")]
    assert several.engines == {STUDENT, (role, which)}


def graph(steps: int) -> dict[str, Cell]:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for block in ("rollout", "evaluate"):
        values[block]["engine"] = "vllm"
    values["teachers"]["carries"]["engine"] = "vllm"
    values["experiment"] |= {"arms": ["omniopd"], "rounds": 2, "steps_per_cell": steps}
    return cell_graph.graph(expand.expand(experiment.of(values, "params.yaml")), gpu=False)
