"""Credits of stretches by hand, and against the definition written plainly."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.method.objectives import state_value
from pipeline.method.objectives.state_value import credits


def test_each_stretch_has_the_change_of_the_value():
    found = credits.credits_of(7, [(1, 0.5), (4, 1.0)], 0.0, 0.25)
    assert found.tolist() == [0.25, 0.5, 0.5, 0.5, -1, -1, -1]


def test_without_another_response_nothing_is_known_of_the_beginning():
    assert credits.credits_of(4, [(2, 0.5)], 1.0, None).tolist() == [0, 0, 0.5, 0.5]
    assert credits.credits_of(3, [], 1.0, None).tolist() == [0, 0, 0]


def test_a_response_without_a_fork_has_its_reward_less_what_others_are_worth():
    assert credits.credits_of(2, [], 1.0, 0.25).tolist() == [0.75, 0.75]


def test_a_fork_at_the_first_token_leaves_no_stretch_before_it():
    assert credits.credits_of(3, [(0, 0.5)], 0.5, 0.9).tolist() == [0, 0, 0]


def test_others_are_those_of_the_same_prompt_without_the_response_itself():
    rows = [
        {"rollout_id": name, "prompt_id": name[0], "reward": reward}
        for name, reward in (("a1", 1.0), ("a2", 0.0), ("a3", 1.0), ("b1", 1.0))
    ]
    found = credits.beginnings(rows, {"a1": 0.5, "a2": 0.25})
    assert found == pytest.approx({"a1": 0.625, "a2": 0.75, "a3": 0.375})


@pytest.mark.parametrize("seed", range(30))
def test_credits_add_up_to_the_reward_less_the_beginning(seed):
    """Over stretches: a telescope, whatever the values are. Equal values leave exactly nothing."""
    draw = np.random.default_rng(seed)
    total = int(draw.integers(3, 30))
    places = np.sort(draw.choice(np.arange(1, total), int(draw.integers(1, 3)), replace=False))
    states = [(int(p), int(draw.integers(0, 9)) / 8) for p in places]
    reward, beginning = float(draw.integers(2)), draw.random()
    found = credits.credits_of(total, states, reward, beginning)
    firsts = found[[0, *places]]
    assert firsts.sum() == pytest.approx(reward - beginning)
    third = 1 / 3
    same = credits.credits_of(total, [(p, third) for p, _ in states], third, (third * 7) / 7)
    assert not same.any()


def test_a_response_becomes_tokens_with_credits_and_an_anchor_on_the_rest():
    rollouts = pa.Table.from_pylist(
        [
            {
                "rollout_id": name,
                "prompt_id": "a",
                "prompt_token_ids": [3],
                "token_ids": [4, 5, 6, 7],
                "logprobs": [-0.5] * 4,
                "reward": reward,
            }
            for name, reward in (("a1", 1.0), ("a2", 0.0))
        ]
    )
    targets = pa.table(
        {"rollout_id": ["a1", "a1"], "position": [1, 3], "k_sem": [2.0, 4.0], "n": [4, 4]}
    )
    first = {"a1": 0.5}
    begun = credits.beginnings(rollouts.to_pylist(), first)
    (one,), (other,) = (e.sequences for e in state_value.examples(rollouts, targets, begun))
    assert one.weight_T.tolist() == [0.5, 0.5, 0.5, 0]
    assert one.anchor_T.tolist() == [False, False, False, True]
    assert other.weight_T.tolist() == [-0.5] * 4
