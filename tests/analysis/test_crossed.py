"""Intervals over seeds x problems, on tables worked by hand and on simulated ones."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from pipeline.analysis import seeds_by_problems, verdicts
from pipeline.analysis.bootstrap import Graded, graded
from pipeline.core.errors import UserError
from pipeline.plan.evaluation import power
from tests import coverage

REPLICATES = 2000
K = 4  # samples of a problem
BY_HAND = np.array([[0.0, 2.0], [2.0, 4.0], [1.0, 9.0]])  # seeds x problems


def arm(shares_SP):
    problems = [f"p{i}" for i in range(len(shares_SP[0]))]
    return {seed: Graded(problems, np.asarray(row, float)) for seed, row in enumerate(shares_SP)}


def test_mean_squares_are_those_worked_by_hand():
    # seed means 1 3 5, problem means 1 5, grand mean 3, residuals 1 -1 1 -1 -2 2
    assert seeds_by_problems.mean_squares(BY_HAND) == pytest.approx((8.0, 24.0, 6.0))


def test_interval_and_p_are_those_worked_by_hand():
    low, high, df, p = seeds_by_problems.interval(
        3.0, seeds_by_problems.mean_squares(BY_HAND), 3, 2
    )
    # the seeds' excess 8 - 6 at its upper quartile limit: chi2 of 2 df has its first one at .5754
    seeds = 6 + 2 * 2 / (-2 * math.log(0.75))
    assert df == pytest.approx((seeds + 24 - 6) ** 2 / (seeds**2 / 2 + 24**2 / 1))
    error = math.sqrt((8 + 24 - 6) / 6)
    assert high - 3 == pytest.approx(stats.t.ppf(0.975, df) * error)
    assert 3 - low == pytest.approx(high - 3)
    assert p == pytest.approx(2 * stats.t.sf(3 / error, df))


@pytest.mark.parametrize(
    ("squares", "wanted"), [((5, 1, 2), 5), ((1, 5, 2), 5), ((5, 4, 2), 7), ((2, 2, 2), 2)]
)
def test_variance_never_falls_below_what_seeds_or_problems_show(squares, wanted):
    assert seeds_by_problems.largest(seeds_by_problems.Squares(*squares)) == wanted


def test_degrees_of_freedom_are_those_of_seeds_or_problems_where_one_alone_varies():
    assert seeds_by_problems.degrees(
        seeds_by_problems.Squares(1e6, 1.0, 1.0), 4, 50
    ) == pytest.approx(3, rel=1e-3)
    assert seeds_by_problems.degrees(
        seeds_by_problems.Squares(0.0, 1e6, 1.0), 4, 50
    ) == pytest.approx(49, rel=1e-3)


def test_many_tables_at_once_are_as_one_by_one():
    tables = np.random.default_rng(1).random((5, 3, 7))
    together = seeds_by_problems.interval(
        tables.mean((1, 2)), seeds_by_problems.mean_squares(tables), 3, 7
    )
    for i, table in enumerate(tables):
        assert seeds_by_problems.interval(
            table.mean(), seeds_by_problems.mean_squares(table), 3, 7
        ) == pytest.approx([values[i] for values in together])


def test_equal_arms_differ_by_nothing_with_p_1():
    one = arm(np.random.default_rng(2).random((3, 9)))
    found = seeds_by_problems.difference(one, one)
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_equal_arms_of_which_a_seed_solves_nothing_differ_by_nothing():
    values = np.random.default_rng(2).random((3, 9))
    values[1] = 0.0
    found = seeds_by_problems.difference(arm(values), arm(values))
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    none = seeds_by_problems.difference(arm(0 * values), arm(0 * values))
    assert none.low < 0 < none.high


def test_equal_grades_of_other_problems_are_refused():
    one = {seed: graded(["a", "b"], [1, 0]) for seed in range(2)}
    other = {seed: graded(["a", "c"], [1, 0]) for seed in range(2)}
    with pytest.raises(UserError, match=r"2 are in one only, as \['b', 'c'\]"):
        seeds_by_problems.difference(one, other)


def test_a_difference_without_variation_is_not_certain():
    found = seeds_by_problems.difference(arm(np.ones((3, 2))), arm(np.zeros((3, 2))))
    # as if one of six values had been 0: t is 6 on 1 degree of freedom
    assert found.p == pytest.approx(2 * stats.t.sf(6, 1))
    assert found.low < 0 < found.value
    many = seeds_by_problems.difference(arm(np.ones((5, 600))), arm(np.zeros((5, 600))))
    assert 0 < many.low < 1 == many.high
    assert 0 < many.p < 0.001


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), (1, 1)])
def test_one_problem_or_one_seed_says_nothing_of_others(shape):
    found = seeds_by_problems.difference(arm(np.ones(shape)), arm(np.zeros(shape)))
    assert (found.value, found.low, found.high, found.p) == (1.0, -1.0, 1.0, 1.0)
    found = seeds_by_problems.accuracy(arm(np.ones(shape)))
    assert (found.value, found.low, found.high) == (1.0, 0.0, 1.0)


def test_two_seeds_have_one_degree_of_freedom():
    assert seeds_by_problems.accuracy(arm(np.random.default_rng(3).random((2, 50)))).df == 1


def test_one_student_evaluated_under_two_seeds_is_one_run():
    row = np.random.default_rng(4).random(50)
    found = seeds_by_problems.difference(arm([row, row]), arm(np.zeros((2, 50))))
    assert found.df == 49
    assert found.high - found.value == pytest.approx(
        stats.t.ppf(0.975, 49) * row.std(ddof=1) / math.sqrt(50)
    )


def test_the_order_of_seeds_and_problems_does_not_matter():
    draw = np.random.default_rng(5)
    problems = [f"p{i}" for i in range(20)] * K
    grades = {seed: draw.random(len(problems)) < 0.5 for seed in range(4)}
    one = {seed: graded(problems, correct) for seed, correct in grades.items()}
    turned = draw.permutation(len(problems))
    other = {
        seed: graded([problems[i] for i in turned], grades[seed][turned]) for seed in (2, 0, 3, 1)
    }
    assert seeds_by_problems.accuracy(one) == seeds_by_problems.accuracy(other)
    assert seeds_by_problems.difference(one, other).value == 0


def test_a_seed_that_lacks_problems_is_refused():
    whole, short = graded(["a", "b", "c"], [1, 0, 1]), graded(["a", "b"], [1, 0])
    with pytest.raises(UserError, match=r"seed 1 has 2 problems, wanted the 3 .* as \['c'\]"):
        seeds_by_problems.accuracy({0: whole, 1: short})
    with pytest.raises(UserError, match="seed 1 has 2 problems"):
        seeds_by_problems.difference({0: whole, 1: whole}, {0: whole, 1: short})


def test_arms_of_different_seeds_are_refused():
    row = graded(["a", "b"], [1, 0])
    with pytest.raises(UserError, match=r"one arm has seeds \[0, 1\], the other \[0\]"):
        seeds_by_problems.difference({0: row, 1: row}, {0: row})


def logistic(x):
    return 1 / (1 + np.exp(-x))


def simulated(draw, replicates, seeds, problems, sd):
    """Differences of shares (R, S, P): an arm with an effect of its own on every problem, of sd
    .7 on the logit scale and mean 0, and on every seed, of `sd` in accuracy."""
    difficulty = draw.normal(0, 1.5, (replicates, 1, problems))
    moved = logistic(difficulty + draw.normal(0, 0.7, difficulty.shape))
    own = np.clip(moved + sd * draw.normal(size=(replicates, seeds, 1)), 0, 1)
    base = np.broadcast_to(logistic(difficulty), own.shape)
    return (draw.binomial(K, own) - draw.binomial(K, base)) / K


def checked(differences):
    """(low, high, p) of each table, none of them NaN."""
    squares = seeds_by_problems.mean_squares(differences)
    low, high, df, p = seeds_by_problems.interval(
        differences.mean((1, 2)), squares, *differences.shape[1:]
    )
    assert np.isfinite([low, high, df, p]).all()
    return low, high, p


def replicated(seeds, problems, table):
    """`REPLICATES` intervals, a few hundred tables at a time."""
    step = max(1, 500_000 // (seeds * problems))
    sizes = [min(step, REPLICATES - done) for done in range(0, REPLICATES, step)]
    return np.concatenate([checked(table(size)) for size in sizes], axis=1)


@pytest.mark.parametrize("problems", [30, 600])
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("sd", [0, 0.05, 0.1])
def test_intervals_over_seeds_cover_the_truth_and_a_null_is_rarely_supported(sd, seeds, problems):
    # the mean effect is 0 by symmetry: difficulty, its change and the seeds' effects all have it
    draw = np.random.default_rng([seeds, problems, int(sd * 100)])
    low, high, _ = replicated(seeds, problems, lambda n: simulated(draw, n, seeds, problems, sd))
    assert 0.92 <= np.mean((low <= 0) & (high >= 0)) <= 0.99
    assert np.mean(low > 0) <= 0.04


@pytest.mark.parametrize("problems", [30, 600])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_equal_arms_on_different_evaluation_streams_have_conservative_p_values(seeds, problems):
    draw = np.random.default_rng([seeds, problems])

    def table(n):
        true = np.broadcast_to(
            logistic(draw.normal(0, 1.5, (n, 1, problems))), (n, seeds, problems)
        )
        return (draw.binomial(K, true) - draw.binomial(K, true)) / K

    _, _, p = replicated(seeds, problems, table)
    assert np.mean(p < 0.05) <= 0.08
    for level in (0.1, 0.25, 0.5):  # and at every other level, with three standard errors
        assert np.mean(p < level) <= level + 3 * math.sqrt(level * (1 - level) / REPLICATES)


@pytest.mark.parametrize("sd", [0, 0.05, 0.1])
def test_an_arms_own_accuracy_is_covered_as_well(sd):
    draw = np.random.default_rng([7, int(sd * 100)])

    def table(n):
        true = 0.5 + 0.15 * draw.normal(size=(n, 1, 100)) + sd * draw.normal(size=(n, 3, 1))
        return draw.binomial(K, np.clip(true, 0, 1)) / K - 0.5

    low, high, _ = replicated(3, 100, table)
    assert 0.92 <= np.mean((low <= 0) & (high >= 0)) <= 0.99


@pytest.mark.parametrize("versus", ["base", "opd"])
@pytest.mark.parametrize(("seeds", "problems"), [(2, 600), (3, 30), (3, 600), (5, 30), (10, 600)])
def test_the_smallest_difference_told_beforehand_is_seen_four_times_in_five(
    seeds, problems, versus
):
    draw = np.random.default_rng([seeds, problems])
    own = power.spreads()[versus]
    smallest = power.detectable(seeds, problems, K, own)

    def table(n):
        spread = own.seeds * draw.normal(size=(n, seeds, 1))
        spread = spread + own.problems * draw.normal(size=(n, 1, problems))
        noise = math.sqrt(own.answer / K) * draw.normal(size=(n, seeds, problems))
        return smallest + spread + noise

    low, _, _ = replicated(seeds, problems, table)
    # degrees of freedom are those of the expected mean squares: a little off with three seeds
    assert 0.72 <= np.mean(low > 0) <= 0.86


STUDY = {  # omniopd minus each on five seeds, 600 problems at 4 samples: LOG.md, 2026-11-25
    "base": ((0.427, 0.133, 0.284, 0.331, 0.109), 0.334),
    "shuffled-scores": ((0.434, 0.167, 0.309, 0.373, 0.120), 0.331),
    "opd": ((-0.025, -0.041, -0.024, -0.059, 0.010), 0.064),
    "sft": ((-0.026, -0.013, -0.024, -0.065, 0.025), 0.080),
    "imitate-forks": ((0.048, 0.027, 0.033, 0.005, 0.030), 0.039),
}


@pytest.mark.parametrize("versus", STUDY)
def test_power_agrees_with_the_finished_study_within_a_fifth(versus):
    by_seed, width = STUDY[versus]  # width of the interval that the study printed
    error, df = power.standard_error(5, 600, 4, power.spreads()[versus])
    assert 2 * stats.t.ppf(0.975, df) * error == pytest.approx(width, rel=0.2)
    # the seeds' means alone, by the plain t test of them: another way to the same figure
    plain = np.std(by_seed, ddof=1) / math.sqrt(5)
    found = power.detectable(5, 600, 4, power.spreads()[versus])
    t = stats.t.ppf(0.975, 4)
    wanted = brentq(lambda d: stats.nct.sf(t, 4, d / plain) - 0.8, 0, 10 * plain)
    assert found == pytest.approx(wanted, rel=0.2)


def test_spreads_come_from_the_last_report_and_not_its_differences(tmp_path):
    row = {"named": True, "versus": "opd", "k": 4, "seeds": 3, "sd_seeds": 0.07, "note": None}
    row |= {"sd_problems": 0.2, "sd_rest": 0.3, "diff": 0.9}
    rows = [row, {"named": True, "versus": "sft", "seeds": 3, "diff": 0.1}]
    (tmp_path / "verdicts.json").write_text(json.dumps(rows))
    (tmp_path / "run.json").write_text(json.dumps({"students": "c1 c2"}))
    found = power.spreads({"c2", "c3"}, tmp_path)
    assert found["opd"] == pytest.approx((0.07, 0.2, 0.36, 3))
    assumed = power.spreads({"c2", "c3"}, tmp_path / "none")
    assert found["sft"] == assumed["sft"]
    assert power.spreads({"c3", "c4"}, tmp_path) == assumed  # another student, or other problems
    (tmp_path / "run.json").write_text("{}")  # of an older version
    assert power.spreads({"c2", "c3"}, tmp_path) == assumed


def test_seeds_that_share_a_student_are_assumed_to_differ_less(tmp_path):
    several, one = (power.spreads(students, tmp_path) for students in ({"c1", "c2"}, {"c1"}))
    for name, sd in power.ONE_STUDENT.items():
        assert one[name].seeds == sd < several[name].seeds
    for name in ("opd", "sft", "imitate-forks"):  # of two arms the base student was the same before
        assert one[name] == several[name]


def test_pilots_tell_the_spread_that_their_tables_were_drawn_with():
    draw = np.random.default_rng(11)
    tables = [
        0.3
        + 0.13 * draw.normal(size=(40, 1))
        + 0.15 * draw.normal(size=(1, 400))
        + 0.28 * draw.normal(size=(40, 400))
        for _ in range(5)
    ]
    found = np.mean(
        [list(verdicts.spreads(seeds_by_problems.crossed(one, -1.0)).values()) for one in tables],
        axis=0,
    )
    assert found == pytest.approx([0.13, 0.15, 0.28], rel=0.1)


def test_one_run_sees_five_points_rarely_on_30_problems_and_nearly_always_on_500():
    draw = np.random.default_rng(8)
    for problems, lowest, highest in ((30, 0.25, 0.42), (500, 0.99, 1.0)):
        error, _ = power.standard_error(1, problems, 32, power.Spreads(0.0))
        found = 0.05 + error * math.sqrt(problems) * draw.normal(size=(2000, problems))
        t, p = stats.ttest_1samp(found, 0, axis=1)
        assert lowest <= np.mean((p < 0.05) & (t > 0)) <= highest


def test_more_seeds_problems_or_samples_see_smaller_differences():
    own = power.Spreads(0.05)
    one = power.detectable(3, 100, 4, own)
    assert power.detectable(5, 100, 4, own) < one
    assert power.detectable(3, 400, 4, own) < one
    assert power.detectable(3, 100, 16, own) < one
    assert power.detectable(1, 400, 4, own) < power.detectable(1, 100, 4, own)


@pytest.mark.parametrize("region", ["floor", "ceiling", "middle"])
def test_a_sample_of_the_simulated_coverage(region):
    # 4,000 draws of every case: python -m tests.coverage; here 3 sd of 300 draws are .04
    for S, P, k in ((3, 30, 1), (10, 30, 4), (3, 600, 1)):
        for share in coverage.covered(region, S, P, k, 300, seed=1).values():
            assert share >= 0.91
            assert region != "middle" or share <= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("region", ["floor", "ceiling", "middle", "zero"])
def test_simulated_coverage_is_at_least_93_percent_in_every_case(region):
    for S, P, k in itertools.product(coverage.SEEDS, coverage.PROBLEMS, coverage.SAMPLES):
        found = coverage.covered(region, S, P, k, 4000, coverage.REPORTED)
        assert min(found.values()) >= 0.93, (S, P, k, found)
        assert region != "middle" or max(found.values()) <= 0.99, (S, P, k, found)


def test_nothing_solved_has_a_limit_above_zero_and_everything_solved_one_below_one():
    none, every = arm(np.zeros((3, 64))), arm(np.ones((3, 64)))
    limit = 1 - 0.025 ** (1 / 64)  # Clopper and Pearson: no one of 64 problems
    found = seeds_by_problems.accuracy(none)
    assert (found.value, found.low, found.high) == (0.0, 0.0, pytest.approx(limit))
    found = seeds_by_problems.accuracy(every)
    assert (found.value, found.low, found.high) == (1.0, pytest.approx(1 - limit), 1.0)
    for same in (none, every):
        found = seeds_by_problems.difference(same, same)
        assert (found.value, found.p) == (0.0, 1.0)
        assert (found.low, found.high) == pytest.approx((-limit, limit))


def test_equal_shares_of_other_rows_are_not_the_same_answers():
    problems = ["a", "a", "b", "b"]
    one = {s: graded(problems, [1, 0, 0, 1]) for s in range(3)}
    other = {s: graded(problems, [0, 1, 0, 1]) for s in range(3)}
    same = seeds_by_problems.difference(one, one)
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    found = seeds_by_problems.difference(one, other)
    assert found.value == 0.0
    assert found.low < 0 < found.high


def test_where_few_problems_tell_p_and_interval_agree():
    for ups in range(12):
        table = np.zeros((3, 200))
        table[:, :ups] = 1.0
        found = seeds_by_problems.crossed(table, -1.0)
        assert found.few
        assert (found.low > 0) == (found.p < 0.05), ups
    assert found.low > 0


def test_one_set_alone_is_laid_out_as_no_sets():
    table = np.random.default_rng(6).random((3, 40))
    one, plain = (
        seeds_by_problems.layout(table, np.zeros(40, int)),
        seeds_by_problems.layout(table, None),
    )
    assert one[1] == pytest.approx(plain[1])
    assert list(one[0]) == pytest.approx(list(plain[0]))


def test_sets_weigh_alike_and_their_variances_add():
    draw = np.random.default_rng(7)
    table, sets = draw.random((4, 60)), np.array([0] * 50 + [1] * 10)
    found = seeds_by_problems.crossed(table, -1.0, sets)
    assert found.value == pytest.approx((table[:, :50].mean() + table[:, 50:].mean()) / 2)
    assert found.problems == 60
    assert 10 < found.effective < 60  # the ten count as much as the fifty
    parts = [
        seeds_by_problems.mean_squares(table[:, sets == n]).problems / (4 * m)
        for n, m in ((0, 50), (1, 10))
    ]
    assert found.squares.problems / (4 * found.effective) == pytest.approx(sum(parts) / 4)


def test_sets_of_unlike_sizes_are_covered():
    draw, held = np.random.default_rng(9), 0
    sets = np.array([0] * 100 + [1] * 25)
    true = np.where(sets == 0, 0.0, 0.2)
    for _ in range(400):
        table = true + 0.3 * draw.normal(size=(1, 125)) + 0.05 * draw.normal(size=(5, 1))
        found = seeds_by_problems.crossed(table + 0.2 * draw.normal(size=(5, 125)), -1.0, sets)
        held += found.low <= 0.1 <= found.high
    assert 0.92 <= held / 400 <= 0.99
