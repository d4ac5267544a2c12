"""Similarities, and the scores of a round, on hand-made rows."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.errors import UserError
from pipeline.data import schemas
from pipeline.method import scoring
from pipeline.method.similarity import Pair, similarities

PAIRS = [
    Pair("abc", True, "abc", True),
    Pair("abc", True, "abc", False),
    Pair("abcd", True, "abxd", True),
    Pair("", True, "", True),
    Pair("", True, "ab", True),
    Pair("  abc", True, "abc", True),
]
EXPECTED = {
    "exact": [1, 0, 0, 1, 0, 1],
    "edit": [1, 1, 0.75, 1, 0, 1],
    "prefix": [1, 1, 0.5, 1, 0, 1],
    "rouge1": [1, 1, 0, 0, 0, 1],
}


@pytest.mark.parametrize("metric", list(EXPECTED))
def test_similarities_are_hand_computed(metric):
    assert similarities(PAIRS, metric) == pytest.approx(EXPECTED[metric])


def test_rouge1_is_the_f1_of_words():
    (found,) = similarities([Pair("the cat sat", True, "a cat sat down", True)], "rouge1")
    assert found == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


def test_embeddings_rank_meaning_and_stay_in_the_unit_interval():
    pairs = [
        Pair("the sum is twelve", True, "the total is 12", True),
        Pair("the sum is twelve", True, "my dog likes the beach", True),
        Pair("the sum is twelve", True, "the sum is twelve", True),
    ]
    close, far, same = similarities(pairs, "embedding")
    assert 0 <= far < close < same <= 1
    assert same == pytest.approx(1, abs=1e-5)
    assert similarities(pairs[:1], "embedding")[0] == pytest.approx(close, abs=1e-5)


def test_equal_pairs_are_computed_once(monkeypatch):
    from pipeline.method.similarity import edit

    seen = []
    real = edit.measure
    monkeypatch.setattr(edit, "measure", lambda pairs: seen.append(len(pairs)) or real(pairs))
    assert len(similarities(PAIRS[:1] * 5 + PAIRS[5:], "edit")) == 6
    assert seen == [1]  # the left-stripped pair is the same one


def fork_table(count):
    rows = [
        {
            "rollout_id": f"r{i}",
            "fork": 0,
            "position": 1,
            "length": 2,
            "entropy": 0.5,
            "prefix_text": "a",
            "chunk_text": "bc",
            "ended": False,
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.FORKS)


def answer_table(texts):
    rows = [
        {
            "rollout_id": f"r{i}",
            "position": 1,
            "sample": sample,
            "teacher": "t",
            "text": text,
            "ended": False,
            "finish_reason": "length",
            "model_returned": "m",
            "prompt_tokens": 1,
            "completion_tokens": 2,
            "request_key": "k",
            "token_ids": [2, 3],
        }
        for i, samples in enumerate(texts)
        for sample, text in enumerate(samples)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.ANSWERS)


def test_shuffled_scores_move_as_blocks_and_within_their_prompt():
    found = np.arange(40.0).reshape(20, 2)
    group = ["a", "b", "b", "c", "a"] * 4
    moved = scoring.shuffled(found, group, np.random.default_rng(0))
    assert sorted(moved.tolist()) == found.tolist()
    for name in set(group):
        here = [i for i, g in enumerate(group) if g == name]
        assert sorted(moved[here].tolist()) == found[here].tolist()
    assert (moved[:, 0] != found[:, 0]).sum() > 10
    everywhere = scoring.shuffled(found, [""] * 20, np.random.default_rng(0))
    assert sorted(everywhere.tolist()) == found.tolist()
    assert any(group[int(row[0] // 2)] != g for row, g in zip(everywhere, group, strict=True))


def test_other_than_n_continuations_is_an_error():
    with pytest.raises(UserError, match=r"fork \('r1', 1\) has 1 continuations"):
        scoring.by_fork(fork_table(2), answer_table([["bc", "bd"], ["bc"]]), 2)
    with pytest.raises(UserError, match="is no fork"):
        scoring.by_fork(fork_table(1), answer_table([["bc", "bd"], ["bc", "bc"]]), 2)


def test_scores_that_are_zero_almost_everywhere_stop():
    found = np.zeros((20, 2))
    found[0] = 1
    with pytest.raises(UserError, match=r"k_sem is 0 in 95% of 20 forks"):
        scoring.check_flat(found, None, "exact")
    found[1:3] = 1
    scoring.check_flat(found, None, "exact")


def test_scores_that_do_not_tell_problems_apart_stop():
    found = np.ones((4, 2))
    with pytest.raises(UserError, match=r"0\.500 alike and answers to different problems 0\.480"):
        scoring.check_flat(found, (0.5, 0.48), "exact")
    scoring.check_flat(found, (0.5, 0.46), "exact")


def test_contrast_compares_within_a_fork_and_between_problems():
    answers = scoring.by_fork(fork_table(2), answer_table([["bc", "bc"], ["xy", "xz"]]), 2)
    found = scoring.contrast(answers, {"r0": "p", "r1": "q"}, 2, "exact")
    assert found == (0.5, 0.0)
    assert scoring.contrast(answers, {"r0": "p", "r1": "p"}, 2, "exact") is None
