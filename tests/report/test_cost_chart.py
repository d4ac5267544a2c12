"""cost.png: a line an arm and seed; of several seeds one an arm, at the means of its costs."""

import pytest

from pipeline.report import cost_chart

COSTS = [column for _, column, _ in cost_chart.PANELS]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Points of each line of the first panel, by arm."""

    def draw(seeds):
        figures = []
        monkeypatch.setattr(cost_chart, "save", lambda figure, path: figures.append(figure))
        points, costs, over_seeds = [], [], []
        for arm, round_ in (("base", 0), ("omniopd", 3)):
            for seed in seeds:
                at = {"arm": arm, "seed": seed, "round": round_}
                spent = 1000.0 * round_ * (seed + 1)
                costs.append(at | dict.fromkeys(COSTS, spent) | {cost_chart.ASKED: spent})
                ends = {"accuracy": 0.2 + 0.1 * seed, "low": 0.1, "high": 0.9}
                points.append(at | ends | {"source": "evaluation"})
            mean = {"arm": arm, "round": round_, "accuracy": 0.3, "low": 0.2, "high": 0.4}
            over_seeds += [{**mean, "task": "sums", "accuracy": 0.7}, {**mean, "task": "all"}]
        cost_chart.draw(points, over_seeds, costs, ["base", "omniopd"], tmp_path / "cost.png")
        lines = [one.lines[0] for one in figures[0].axes[0].containers]
        return [list(zip(*map(list, line.get_data()), strict=True)) for line in lines]

    return draw


def test_of_one_seed_its_own_points(drawn):
    assert drawn([0]) == [[(0, 0.2), (3000, 0.2)]]


def test_of_several_seeds_a_line_an_arm_at_the_means_of_all_tasks(drawn):
    assert drawn([0, 1]) == [[(0, 0.3), (4500, 0.3)]]
