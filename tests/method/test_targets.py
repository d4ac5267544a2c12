"""Scores to k_sem, k_sem to the weights of the forks, on hand-made rows."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.errors import UserError
from pipeline.data import schemas
from pipeline.method import targets
from pipeline.method.posterior import pi_bar
from tests.method.test_scoring import fork_table


def score_table(values):
    rows = [
        {
            "rollout_id": f"r{i}",
            "position": 1,
            "sample": s,
            "teacher": "t",
            "metric": "edit",
            "similarity": v,
        }
        for i, own in enumerate(values)
        for s, v in enumerate(own)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.SCORES)


def test_the_posterior_is_hand_computed():
    found = targets.by_scores(2, np.array([1.5]), np.array([0.5]), 1.0)
    (row,) = found.table(fork_table(1), 0, np.array([0.75])).to_pylist()
    assert row["pi_hat"] == pytest.approx(2 / 3)  # (1.5 + 0.5) / 3
    assert row["posterior_sd"] == pytest.approx((2 * 1 / (9 * 4)) ** 0.5)  # Beta(2, 1)
    assert (row["n"], row["k_sem"], row["pi_bar"], row["weight"]) == (2, 1.5, 0.5, 0.75)


def test_several_teachers_are_the_mean_or_the_share_above_their_own_median():
    k_TF = np.array([[1.0, 2.0, 6.0], [8.0, 0.0, 4.0]])
    assert targets.combined(k_TF, 8, "mean").tolist() == [4.5, 1.0, 5.0]
    assert targets.combined(k_TF, 8, "above-median").tolist() == [4.0, 0.0, 4.0]


def test_alpha_zero_is_the_plain_mean_and_has_no_nan():
    found = targets.by_scores(2, np.array([0.0, 1.0, 2.0]), np.full(3, 0.5), 0.0)
    assert found.hat.tolist() == [0.0, 0.5, 1.0]
    assert found.sd.tolist() == pytest.approx([0, (0.25 / 3) ** 0.5, 0])


def test_pi_hat_outside_the_unit_interval_is_an_error():
    with pytest.raises(UserError, match="wanted 0 to 1"):
        targets.by_scores(2, np.array([2.5]), np.array([1.0]), 0.0)


def test_scores_must_be_n_for_every_fork_and_in_range():
    k, n = targets.k_sem(fork_table(2), score_table([[0.5, 1.0], [0.0, 0.25]]), 2)
    assert (k.tolist(), n.tolist()) == ([1.5, 0.25], [2, 2])
    with pytest.raises(UserError, match=r"fork \('r1', 1\) has 1 scores, wanted 2"):
        targets.k_sem(fork_table(2), score_table([[0.5, 1.0], [0.0]]), 2)
    with pytest.raises(UserError, match="wanted 0 to 1"):
        targets.k_sem(fork_table(1), score_table([[0.5, 1.1]]), 2)
    with pytest.raises(UserError, match="is no fork"):
        targets.k_sem(fork_table(1), score_table([[0.5, 1.0], [0.5, 0.5]]), 2)


def test_pi_bar_is_the_geometric_mean_over_the_chunk():
    logprobs = [[-9.0, -0.1, -0.3, -9.0]]
    rollouts = pa.table({"rollout_id": ["r0"], "logprobs": logprobs})
    assert pi_bar(rollouts, fork_table(1)).tolist() == pytest.approx([np.exp(-0.2)])
    with pytest.raises(UserError, match="leaves its 2 tokens"):
        pi_bar(pa.table({"rollout_id": ["r0"], "logprobs": [[-1.0, -1.0]]}), fork_table(1))
