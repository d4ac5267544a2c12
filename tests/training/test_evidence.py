"""forks, similarity, score and prior on hand-made rows."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pipeline.core.errors import UserError
from pipeline.data import schemas
from pipeline.engines import char_tokenizer
from pipeline.method import schedulers, scoring
from pipeline.method.schedulers import Response
from pipeline.method.similarity import Pair, similarities
from stages import forks, prior, score


def anywhere(_):
    return True


def peaks(entropies, most, chunk, eligible=anywhere):
    draw = np.random.default_rng(0)
    return schedulers.load("peak-entropy")(
        Response(np.array(entropies, np.float32), most, chunk, eligible, draw)
    )


def test_forks_are_the_highest_entropies_a_chunk_apart():
    assert peaks([0.1, 0.9, 0.8, 0.2, 0.7, 0.3, 0.0], 3, 2) == [1, 4]
    assert peaks([0.1, 0.9, 0.8, 0.7, 0.2, 0.6, 0.0], 3, 2) == [1, 3, 5]
    assert peaks([0.1, 0.9, 0.8, 0.7, 0.2, 0.6, 0.0], 1, 2) == [1]


def test_ties_go_to_the_later_token():
    assert peaks([0.5, 0.5, 0.5, 0.5], 1, 2) == [2]
    assert peaks([0.5, 0.5, 0.5, 0.5], 2, 2) == [0, 2]


def test_a_chunk_fits_into_the_response_or_is_not_taken():
    assert peaks([0.1, 0.2, 0.9], 3, 2) == [1]
    assert peaks([0.9], 3, 2) == []
    assert peaks([0.9, 0.1], 3, 2) == [0]


def test_a_start_that_is_not_eligible_is_passed_over():
    assert peaks([0.9, 0.8, 0.1, 0.2], 1, 2, lambda t: t != 0) == [1]


def test_uniform_forks_are_apart_and_belong_to_their_generator():
    def taken(seed):
        draw = np.random.default_rng(seed)
        return schedulers.load("uniform")(Response(np.zeros(40), 4, 5, anywhere, draw))

    for seed in range(20):
        starts = taken(seed)
        assert starts == sorted(starts)
        assert all(b - a >= 5 for a, b in itertools.pairwise(starts))
        assert starts[-1] + 5 <= 40
    assert taken(1) == taken(1) != taken(2)


def rollout(ids, text, entropies, reason="stop"):
    values = {
        "rollout_id": "r",
        "prompt_id": "p",
        "sample": 0,
        "round": 1,
        "prompt_token_ids": [2],
        "token_ids": ids,
        "logprobs": [-0.5] * len(ids),
        "entropies": entropies,
        "text": text,
        "finish_reason": reason,
        "reward": None,
    }
    return pa.Table.from_pylist([values], schema=schemas.ROLLOUTS)


def fork_params(**changes):
    values = {"scheduler": "peak-entropy", "max_forks": 2, "chunk_tokens": 2, "seed": 0, "round": 1}
    return forks.ForksParams.model_validate(values | changes)


def test_a_chunk_with_the_end_in_it_says_so():
    tokenizer = char_tokenizer.tokenizer("abc").backend_tokenizer
    rows = forks.forks(rollout([2, 3, 4, 1], "abc", [0.5, 0.1, 0.9, 0.2]), tokenizer, fork_params())
    found = [
        (r["position"], r["prefix_text"], r["chunk_text"], r["ended"]) for r in rows.to_pylist()
    ]
    assert found == [(0, "", "ab", False), (2, "ab", "c", True)]
    cut = rollout([2, 3, 4, 4], "abcc", [0.5, 0.1, 0.9, 0.2], "length")
    assert not any(row["ended"] for row in forks.forks(cut, tokenizer, fork_params()).to_pylist())


def test_a_fork_never_starts_inside_a_character():
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ids = tokenizer.encode("aéb").ids  # four bytes; é takes the second and the third
    rows = forks.forks(rollout(ids, "aéb", [0.1, 0.2, 0.9, 0.3]), tokenizer, fork_params())
    assert 2 not in [row["position"] for row in rows.to_pylist()]
    assert [row["position"] for row in rows.to_pylist()] == [1]


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


def score_params(**changes):
    values = {
        "metric": "exact",
        "source": "similarity",
        "allow_flat": False,
        "teacher": "t",
        "samples": 2,
        "seed": 0,
        "round": 1,
    }
    return score.ScoreParams.model_validate(values | changes)


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
        score.by_fork(fork_table(2), answer_table([["bc", "bd"], ["bc"]]), 2)
    with pytest.raises(UserError, match="is no fork"):
        score.by_fork(fork_table(1), answer_table([["bc", "bd"], ["bc", "bc"]]), 2)


def test_scores_that_are_zero_almost_everywhere_stop():
    found = np.zeros((20, 2))
    found[0] = 1
    with pytest.raises(UserError, match=r"k_sem is 0 in 95% of 20 forks"):
        scoring.check_flat(found, None, score_params())
    scoring.check_flat(found, None, score_params(allow_flat=True))
    found[1:3] = 1
    scoring.check_flat(found, None, score_params())


def test_scores_that_do_not_tell_problems_apart_stop():
    found = np.ones((4, 2))
    with pytest.raises(UserError, match=r"0\.500 alike and answers to different problems 0\.480"):
        scoring.check_flat(found, (0.5, 0.48), score_params())
    scoring.check_flat(found, (0.5, 0.46), score_params())


def test_contrast_compares_within_a_fork_and_between_problems():
    answers = score.by_fork(fork_table(2), answer_table([["bc", "bc"], ["xy", "xz"]]), 2)
    found = score.contrast(answers, {"r0": "p", "r1": "q"}, score_params())
    assert found == (0.5, 0.0)
    assert score.contrast(answers, {"r0": "p", "r1": "p"}, score_params()) is None


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
    (row,) = prior.targets(fork_table(1), 2, np.array([1.5]), np.array([0.5]), 1.0).to_pylist()
    assert row["pi_hat"] == pytest.approx(2 / 3)  # (1.5 + 0.5) / 3
    assert row["posterior_sd"] == pytest.approx((2 * 1 / (9 * 4)) ** 0.5)  # Beta(2, 1)


def test_several_teachers_are_the_mean_or_the_share_above_their_own_median():
    k_TF = np.array([[1.0, 2.0, 6.0], [8.0, 0.0, 4.0]])
    assert prior.combined(k_TF, 8, "mean").tolist() == [4.5, 1.0, 5.0]
    assert prior.combined(k_TF, 8, "above-median").tolist() == [4.0, 0.0, 4.0]


def test_alpha_zero_is_the_plain_mean_and_has_no_nan():
    table = prior.targets(fork_table(3), 2, np.array([0.0, 1.0, 2.0]), np.full(3, 0.5), 0.0)
    assert table["pi_hat"].to_pylist() == [0.0, 0.5, 1.0]
    assert table["posterior_sd"].to_pylist() == pytest.approx([0, (0.25 / 3) ** 0.5, 0])


def test_pi_hat_outside_the_unit_interval_is_an_error():
    with pytest.raises(UserError, match="wanted 0 to 1"):
        prior.targets(fork_table(1), 2, np.array([2.5]), np.array([1.0]), 0.0)


def test_scores_must_be_n_for_every_fork_and_in_range():
    assert prior.k_sem(fork_table(2), score_table([[0.5, 1.0], [0.0, 0.25]]), 2).tolist() == [
        1.5,
        0.25,
    ]
    with pytest.raises(UserError, match=r"fork \('r1', 1\) has 1 scores, wanted 2"):
        prior.k_sem(fork_table(2), score_table([[0.5, 1.0], [0.0]]), 2)
    with pytest.raises(UserError, match="wanted 0 to 1"):
        prior.k_sem(fork_table(1), score_table([[0.5, 1.1]]), 2)
    with pytest.raises(UserError, match="is no fork"):
        prior.k_sem(fork_table(1), score_table([[0.5, 1.0], [0.5, 0.5]]), 2)


def test_pi_bar_is_the_geometric_mean_over_the_chunk():
    logprobs = [[-9.0, -0.1, -0.3, -9.0]]
    rollouts = pa.table({"rollout_id": ["r0"], "logprobs": logprobs})
    assert prior.pi_bar(rollouts, fork_table(1)).tolist() == pytest.approx([np.exp(-0.2)])
    with pytest.raises(UserError, match="leaves its 2 tokens"):
        prior.pi_bar(pa.table({"rollout_id": ["r0"], "logprobs": [[-1.0, -1.0]]}), fork_table(1))
