import numpy as np
import pytest

from pipeline import statistics
from pipeline.errors import UserError


def test_grades_are_grouped_by_problem():
    found = statistics.graded(["b", "a", "b", "a"], [True, False, False, False])
    assert found.problems == ["a", "b"]
    assert found.share_B.tolist() == [0.0, 0.5]


def test_equal_arms_differ_by_nothing():
    one = statistics.graded(["a", "b", "c"], [True, False, True])
    assert statistics.difference(one, one) == (0.0, 0.0, 0.0)


def test_equal_values_give_no_nan():
    assert statistics.mean(np.ones(5)) == (1.0, 1.0, 1.0)


def test_the_interval_is_the_percentile_interval_of_a_plain_bootstrap():
    values = np.random.default_rng(1).random(60)
    found = statistics.mean(values)
    draw = np.random.default_rng(2)
    means = [values[draw.integers(0, 60, 60)].mean() for _ in range(20_000)]
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.005)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.005)


def test_fewer_resamples_at_once_draw_the_same(monkeypatch):
    values = np.random.default_rng(1).random(301)
    wanted = statistics.mean(values)
    monkeypatch.setattr(statistics, "DRAWS", 7 * len(values))
    assert statistics.mean(values) == wanted


def test_intervals_cover_a_known_truth():
    draw, covered = np.random.default_rng(3), 0
    for _ in range(60):
        low, high = statistics.mean((draw.random(200) < 0.3).astype(float))[1:]
        covered += low <= 0.3 <= high
    assert covered >= 51  # 95 % nominal; fewer than 51 of 60 has probability below .001


def test_pairing_is_by_problem_whatever_the_order():
    one = statistics.graded(["a", "b"], [True, False])
    other = statistics.graded(["b", "a"], [False, True])
    assert statistics.difference(one, other).value == 0


def test_different_problems_are_refused():
    one, other = statistics.graded(["a", "b"], [1, 0]), statistics.graded(["a", "c"], [1, 0])
    with pytest.raises(UserError, match="2 problems are in one evaluation only"):
        statistics.difference(one, other)


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_answer():
    problems, correct = ["a"] * 4 + ["b"] * 4, [True, False, False, False] + [False] * 4
    # of the 6 pairs of a's samples 3 hold the correct one; b has none
    assert statistics.pass_at_k(problems, correct, 2) == pytest.approx(0.25)
    assert statistics.pass_at_k(problems, correct, 4) == pytest.approx(0.5)
