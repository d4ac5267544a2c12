"""Weights from evidence, by hand and by what has to hold of every round."""

import numpy as np
import pytest

from pipeline.method.weight import LEAST_ROOM, weights

SHARE = np.array([0.0, 0.25, 0.5, 1.0])  # mean .4375
HAT = np.array([0.2, 0.2, 0.2, 0.6])  # mean .3


def test_each_by_hand():
    assert weights("posterior", SHARE, HAT) is HAT
    assert weights("excess", SHARE, HAT).tolist() == pytest.approx([0, 0, 0.0625 / 0.5625, 1])
    assert weights("excess-posterior", SHARE, HAT).tolist() == pytest.approx([0, 0, 0, 3 / 7])


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 0.7, 1.0])
def test_equal_evidence_has_no_excess(value):
    """To the last bit: a mean of equal values may differ from them by rounding."""
    same = np.full(1001, value)
    assert not weights("excess", same, HAT).any()
    assert not weights("excess-posterior", SHARE, same).any()


def test_where_nothing_can_stand_above_the_mean_all_are_0():
    nearly = np.full(10**4, 1.0)
    nearly[0] = 1 - 0.9 * LEAST_ROOM * len(nearly)
    assert not weights("excess", nearly, HAT).any()
    nearly[0] = 1 - 1.1 * LEAST_ROOM * len(nearly)
    assert weights("excess", nearly, HAT).tolist() == pytest.approx([0, *[1] * (len(nearly) - 1)])


def test_of_no_fork_there_is_no_weight():
    assert not len(weights("excess", np.zeros(0), np.zeros(0)))


@pytest.mark.parametrize("seed", range(50))
def test_it_is_a_share_keeps_the_order_and_forgets_a_floor(seed):
    draw = np.random.default_rng(seed)
    share = draw.integers(0, 9, draw.integers(1, 30)) / 8
    found = weights("excess", share, share)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found[np.argsort(share, kind="stable")]) >= 0).all()
    floor = draw.uniform(0, 0.9)  # of a metric that finds something alike in any two texts
    raised = floor + (1 - floor) * share
    assert weights("excess", raised, raised) == pytest.approx(found, abs=1e-9)
