import numpy as np
import pytest

from pipeline.analysis import bootstrap
from pipeline.core.errors import UserError


def test_grades_are_grouped_by_problem():
    found = bootstrap.graded(["b", "a", "b", "a"], [True, False, False, False])
    assert found.problems == ["a", "b"]
    assert found.share_B.tolist() == [0.0, 0.5]


def test_equal_arms_differ_by_nothing():
    one = bootstrap.graded(["a", "b", "c"], [True, False, True])
    assert bootstrap.difference(one, one) == (0.0, 0.0, 0.0)


def test_equal_values_give_no_nan_and_are_not_certain():
    # Clopper and Pearson: five of five problems, and none of 64
    assert bootstrap.mean(np.ones(5)) == pytest.approx((1.0, 0.025 ** (1 / 5), 1.0))
    assert bootstrap.mean(np.zeros(64)) == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 64)))
    low, high = bootstrap.mean(np.full(64, 0.5))[1:]
    assert 0 < low < 0.5 < high < 1


@pytest.mark.parametrize("grade", [0, 1])
def test_arms_that_solve_nothing_or_everything_are_not_equal_for_certain(grade):
    one = bootstrap.graded([f"p{i}" for i in range(64)], [grade] * 64)
    limit = 1 - 0.025 ** (1 / 64)
    assert bootstrap.difference(one, one) == pytest.approx((0.0, -limit, limit))
    assert bootstrap.t_test(one.share_B - one.share_B) == (63.0, 1.0)


def test_equal_shares_of_other_rows_are_not_the_same_answers():
    problems = ["a", "a", "b", "b"]
    one, other = (bootstrap.graded(problems, rows) for rows in ([1, 0, 0, 1], [0, 1, 0, 1]))
    assert bootstrap.equal(one, one)
    assert not bootstrap.equal(one, other)
    found = bootstrap.difference(one, other)
    assert found.low < found.value == 0 < found.high


def test_log_odds_are_those_of_half_an_answer_more_and_always_finite():
    assert bootstrap.log_odds(0.0, 64) == pytest.approx(np.log(0.5 / 64.5))
    assert bootstrap.log_odds(1.0, 64) == -bootstrap.log_odds(0.0, 64)
    assert bootstrap.log_odds(0.5, 64) == 0
    assert bootstrap.log_odds(0.3, 10**6) == pytest.approx(np.log(0.3 / 0.7), abs=1e-5)


def test_sets_weigh_alike_whatever_their_sizes():
    problems, sets = ["a", "b", "c", "a"] * 10, ["x", "x", "x", "y"] * 10
    problems = [f"{name}{i // 4}" for i, name in enumerate(problems)]
    correct = [name == "y" for name in sets]
    found = bootstrap.graded(problems, correct, sets)
    assert len(found.problems) == 40  # problem a of x is another than that of y
    assert bootstrap.mean(found.share_B, sets_B=found.sets_B).value == 0.5
    assert bootstrap.mean(found.share_B).value == 0.25


def test_sets_are_resampled_each_by_itself():
    draw = np.random.default_rng(5)
    values, sets = draw.random(90), np.array([0] * 60 + [1] * 30)
    found = bootstrap.mean(values, sets_B=sets)
    x, y = values[:60], values[60:]
    means = [
        (x[draw.integers(0, 60, 60)].mean() + y[draw.integers(0, 30, 30)].mean()) / 2
        for _ in range(20_000)
    ]
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.005)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.005)


def test_the_interval_is_the_percentile_interval_of_a_plain_bootstrap():
    values = np.random.default_rng(1).random(60)
    found = bootstrap.mean(values)
    draw = np.random.default_rng(2)
    means = [values[draw.integers(0, 60, 60)].mean() for _ in range(20_000)]
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.005)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.005)


def test_fewer_resamples_at_once_draw_the_same(monkeypatch):
    values = np.random.default_rng(1).random(301)
    wanted = bootstrap.mean(values)
    monkeypatch.setattr(bootstrap, "DRAWS", 7 * len(values))
    assert bootstrap.mean(values) == wanted


def test_intervals_cover_a_known_truth():
    draw, covered = np.random.default_rng(3), 0
    for _ in range(60):
        low, high = bootstrap.mean((draw.random(200) < 0.3).astype(float))[1:]
        covered += low <= 0.3 <= high
    assert covered >= 51  # 95 % nominal; fewer than 51 of 60 has probability below .001


def test_pairing_is_by_problem_whatever_the_order():
    one = bootstrap.graded(["a", "b"], [True, False])
    other = bootstrap.graded(["b", "a"], [False, True])
    assert bootstrap.difference(one, other).value == 0


def test_different_problems_are_refused():
    one, other = bootstrap.graded(["a", "b"], [1, 0]), bootstrap.graded(["a", "c"], [1, 0])
    with pytest.raises(UserError, match="2 problems are in one evaluation only"):
        bootstrap.difference(one, other)


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_answer():
    problems, correct = ["a"] * 4 + ["b"] * 4, [True, False, False, False] + [False] * 4
    # of the 6 pairs of a's samples 3 hold the correct one; b has none
    assert bootstrap.pass_at_k(problems, correct, 2) == pytest.approx(0.25)
    assert bootstrap.pass_at_k(problems, correct, 4) == pytest.approx(0.5)
