"""Unit costs from measured sizes, and the simulation where its result is known without it."""

import pytest

pytest.importorskip("simpy")

from benchmarks.scale import units
from benchmarks.scale.world import STAGES, Costs, Experiment, plan, simulate

FREE = Costs(head=0, sent=0, remote=0, prefect=0, add=0)


def test_a_unit_is_the_line_through_its_points_and_never_falls():
    line = units.fit({100: 12.0, 200: 22.0, 400: 42.0}, "line")
    assert (line.start, line.each) == pytest.approx((2.0, 0.1))
    assert line.at(800) == pytest.approx(82.0)
    assert units.fit({1: 3.0, 2: 5.0, 3: 4.0}, "flat").at(100) == 4.0
    through = units.fit({100: 8.0, 200: 18.0, 400: 38.0}, "line")  # best below 0 at 0
    assert through.start == 0.0
    assert units.fit({100: 9.0, 200: 8.0, 400: 7.0}, "line").each == 0.0
    assert units.fit({1: 1.0, 2: 4.0, 3: 9.0}, "square").at(4) == pytest.approx(16.0)


def test_the_largest_size_is_predicted_from_the_others_and_three_sizes_predict_nothing():
    sizes = {str(n): {"size": n, "cpu": 0.5 * n} for n in (2, 4, 8, 16)}
    sizes["16"]["cpu"] = 10.0
    (found,) = units.checks({"schedule": sizes})
    assert (found.name, found.size, found.measured) == ("schedule.cpu", 16, 10.0)
    assert (found.predicted, found.off) == pytest.approx((8.0, -0.2))
    del sizes["2"]
    assert units.checks({"schedule": sizes}) == []


def test_without_costs_the_wall_is_the_longest_chain_or_all_work_by_the_workers():
    wide = simulate(Experiment(5, 3, 1, 10.0, workers=50), FREE)
    assert wide.cells == Experiment(5, 3, 1, 10.0, 50).cells == 5 * 3 * (len(STAGES) + 1)
    assert wide.wall == pytest.approx(wide.bound)
    assert wide.bound == pytest.approx(10.0 * (3 * len(STAGES) + 1), rel=0.1)
    alone = simulate(Experiment(5, 3, 1, 10.0, workers=1), FREE)
    assert alone.wall == pytest.approx(alone.bound)
    assert alone.busy["workers"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("part", "costs"),
    [
        ("head", Costs(head=1.0, sent=0.5, remote=0, prefect=0, add=0)),
        ("store", Costs(head=0, sent=0, remote=0, prefect=0, add=0.1)),
    ],
)
def test_what_takes_longer_than_the_workers_decides_the_wall(part: str, costs: Costs):
    it = Experiment(20, 2, 1, 0.01, workers=20, answers=100)
    found = simulate(it, costs)
    work = it.cells * 1.5 if part == "head" else 20 * 2 * 100 * 0.1
    assert found.first == part
    assert found.wall == pytest.approx(work, rel=0.1)
    assert found.busy[part] > 0.9


def test_writers_of_the_store_share_its_work_and_prefect_is_waited_for_by_nobody():
    slow = Costs(head=0, sent=0, remote=0, prefect=5.0, add=0.1)
    one = simulate(Experiment(20, 2, 1, 0.01, 20, answers=100), slow)
    four = simulate(Experiment(20, 2, 1, 0.01, 20, answers=100, writers=4), slow)
    assert four.wall < one.wall / 3
    assert four.behind == pytest.approx(5.0 * four.cells - four.wall, rel=0.2)


def test_cells_of_several_rounds_are_fewer_and_do_the_same_work():
    each = Experiment(4, 10, 1, 1.0, workers=4)
    steps = Experiment(4, 10, 5, 1.0, workers=4)
    assert (each.cells, steps.cells) == (280, 16)
    found = simulate(steps, FREE)
    assert found.cells == 16
    assert found.bound == pytest.approx(10 * len(STAGES) + 1, rel=0.25)


def test_a_plan_takes_its_longest_chain_or_its_cells_by_the_workers_and_what_the_head_adds():
    reads = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
    assert plan(reads, 10.0, 2, FREE) == 30.0
    assert plan(reads, 10.0, 1, FREE) == 40.0
    slow = Costs(head=2.0, sent=0, remote=0, prefect=100.0, add=0)
    assert plan(reads, 10.0, 2, slow) == 30.0 + 3 * 2.0 + 1.0  # b waits for c at the head, once
