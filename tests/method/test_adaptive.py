"""Adaptive N: how many answers a fork gets, and scores of forks with different numbers of them."""

import numpy as np
import pytest

from pipeline.config.method import Adaptive
from pipeline.core.errors import UserError
from pipeline.method import adaptive, scoring, targets
from tests.method.test_scoring import answer_table, fork_table
from tests.method.test_targets import score_table


def rule(first=2, most=5, agree=1.0):
    return Adaptive.model_validate({"first": first, "most": most, "until": {"agree": agree}})


def wanted(texts, **how):
    return adaptive.wanted(rule(**how), [(text, True) for text in texts])


def test_a_number_is_wanted_whatever_is_said():
    assert adaptive.wanted(8, []) == adaptive.wanted(8, [("a", True)] * 8) == 8


def test_few_are_enough_where_the_first_agree():
    assert wanted("") == wanted("a") == 2
    assert wanted("aa") == 2
    assert wanted("ab") == 3
    assert wanted("abaa") == 5
    assert wanted("ababb") == 5  # there are no more


def test_a_share_may_be_enough():
    assert wanted("ab", agree=0.6) == 3
    assert wanted("aba", agree=0.6) == 3
    assert wanted("abc", agree=0.6) == 4
    assert wanted("abca", agree=0.5) == 4
    assert wanted("aab", first=3, agree=2 / 3) == 3  # to the last bit


def test_an_end_is_a_part_of_an_answer():
    assert adaptive.wanted(rule(), [("a", True), ("a", False)]) == 3


@pytest.mark.parametrize("seed", range(40))
def test_it_never_asks_for_less_than_there_is_or_more_than_one_at_a_time(seed):
    draw = np.random.default_rng(seed)
    how = rule(first=2, most=7, agree=float(draw.uniform(0.1, 1)))
    said = [(draw.choice(list("abc")), True) for _ in range(7)]
    given = 0
    while (more := adaptive.wanted(how, said[:given])) > given:
        assert more == max(given + 1, 2)
        given = more
    assert 2 <= given <= 7
    common = max(said[:given].count(one) for one in said[:given])
    assert given == 7 or common >= how.until.agree * given - 1e-9
    table = answer_table([[text for text, _ in said[:given]]])
    assert len(scoring.by_fork(fork_table(1), table, how)["r0", 1]) == given


def test_answers_that_the_rule_did_not_want_are_refused():
    fine = [["bc", "bc"], ["bc", "bd", "bc", "bc", "bc"]]
    both = scoring.by_fork(fork_table(2), answer_table(fine), rule())
    assert [len(rows) for rows in both.values()] == [2, 5]
    for wrong, count in ((["bc", "bc", "bd"], 2), (["bc", "bd"], 3), (["bc"], 2)):
        with pytest.raises(UserError, match=rf"continuations, wanted samples 0 to {count - 1} "):
            scoring.by_fork(fork_table(1), answer_table([wrong]), rule())


def test_scores_and_targets_have_as_many_as_each_fork_has_answers():
    how, forks = rule(), fork_table(2)
    said = answer_table([["bc", "bc"], ["bc", "bd", "xy", "bc", "bc"]])
    answers = scoring.by_fork(forks, said, how)
    found = scoring.similarities(forks, answers, 5, "exact")
    assert np.isnan(found).sum(1).tolist() == [3, 0]
    table = scoring.table(forks, found, "t", "exact")
    assert table["sample"].to_pylist() == [0, 1, 0, 1, 2, 3, 4]
    k, n = targets.k_sem(forks, table, how)
    assert (k.tolist(), n.tolist()) == ([2, 3], [2, 5])
    beliefs = targets.by_scores(n, k, np.array([0.5, 0.5]), 1.0)
    assert beliefs.hat.tolist() == pytest.approx([2.5 / 3, 3.5 / 6])
    rows = beliefs.table(forks, 0, beliefs.hat).to_pylist()
    assert [row["n"] for row in rows] == [2, 5]


def test_scores_of_too_few_or_with_a_gap_are_refused():
    for values, said in (([[0.5]], "has 1 scores, wanted 2 to 5"), ([[0.1] * 6], "wanted 2 to 5")):
        with pytest.raises(UserError, match=said):
            targets.k_sem(fork_table(1), score_table(values), rule())
    gap = score_table([[0.5, 0.5, 0.5]]).take([0, 2])
    with pytest.raises(UserError, match=r"has the samples \[0, 2\], wanted 0 to 1 once"):
        targets.k_sem(fork_table(1), gap, rule())
