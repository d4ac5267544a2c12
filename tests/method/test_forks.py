"""Schedulers and the forks that they take, on hand-made rows."""

import itertools

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pipeline.config.method import Forks
from pipeline.data import schemas
from pipeline.engines import char_tokenizer
from pipeline.method import schedulers
from pipeline.method.forks import forks
from pipeline.method.schedulers import Response


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


def test_confident_mistakes_take_a_peak_and_a_sure_place_in_turn():
    def taken(entropies, most, seed=0, eligible=anywhere):
        draw, values = np.random.default_rng(seed), np.array(entropies, np.float32)
        return schedulers.load("confident-mistakes")(Response(values, most, 2, eligible, draw))

    entropies = [0.0, 0.1, 0.9, 0.2, 0.0, 0.8, 0.9, 0.1]
    assert taken(entropies, 1) == [6]  # ties go to the later token
    seen = {tuple(taken(entropies, 2, seed)) for seed in range(30)}
    assert seen == {(t, 6) for t in (0, 1, 4)}  # at most the median, a chunk apart
    first = next(seed for seed in range(30) if taken(entropies, 2, seed) == [0, 6])
    assert taken(entropies, 3, first) == [0, 2, 6]  # the next peak
    assert taken(entropies, 2, 3) == taken(entropies, 2, 3)
    assert taken(entropies, 2, 3, lambda t: t not in (0, 1, 3, 4)) == [2, 6]  # none sure: a peak
    assert taken([0.5], 2) == []


def test_whole_is_one_fork_of_the_response():
    def taken(length, eligible=anywhere):
        values = np.zeros(length, np.float32)
        draw = np.random.default_rng(0)
        return schedulers.load("whole")(Response(values, 3, 8, eligible, draw))

    assert taken(3) == taken(20) == [0]  # shorter than a chunk, and longer
    assert taken(0) == taken(3, lambda t: t > 0) == []


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
    values = {"scheduler": "peak-entropy", "max_forks": 2, "chunk_tokens": 2}
    return Forks.model_validate(values | changes)


def test_a_chunk_with_the_end_in_it_says_so():
    tokenizer = char_tokenizer.tokenizer("abc").backend_tokenizer
    rows = forks(rollout([2, 3, 4, 1], "abc", [0.5, 0.1, 0.9, 0.2]), tokenizer, fork_params(), 0, 1)
    found = [
        (r["position"], r["prefix_text"], r["chunk_text"], r["ended"]) for r in rows.to_pylist()
    ]
    assert found == [(0, "", "ab", False), (2, "ab", "c", True)]
    cut = rollout([2, 3, 4, 4], "abcc", [0.5, 0.1, 0.9, 0.2], "length")
    assert not any(row["ended"] for row in forks(cut, tokenizer, fork_params(), 0, 1).to_pylist())


def test_the_chunk_of_scheduler_whole_is_the_response():
    tokenizer = char_tokenizer.tokenizer("abc").backend_tokenizer
    for chunk_tokens, found in (
        (8, (4, "abc", True)),
        (4, (4, "abc", True)),
        (2, (2, "ab", False)),
    ):
        p = fork_params(scheduler="whole", chunk_tokens=chunk_tokens)
        rows = forks(rollout([2, 3, 4, 1], "abc", [0.5, 0.1, 0.9, 0.2]), tokenizer, p, 0, 1)
        (row,) = rows.to_pylist()
        assert (row["position"], row["prefix_text"]) == (0, "")
        assert (row["length"], row["chunk_text"], row["ended"]) == found


def test_a_fork_never_starts_inside_a_character():
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ids = tokenizer.encode("aéb").ids  # four bytes; é takes the second and the third
    rows = forks(rollout(ids, "aéb", [0.1, 0.2, 0.9, 0.3]), tokenizer, fork_params(), 0, 1)
    assert 2 not in [row["position"] for row in rows.to_pylist()]
    assert [row["position"] for row in rows.to_pylist()] == [1]
