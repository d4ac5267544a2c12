"""Scheduler embedding-variance against a plain version, with a made-up student and embedder."""

import itertools

import numpy as np

from pipeline.method.schedulers import Response, embedding_variance, peak_entropy
from pipeline.method.schedulers.embedding_variance import CANDIDATES, positions, variance
from tests import naive

CHUNK, SAMPLES = 3, 4


def response(draw, length, most=2):
    entropies = draw.permutation(length).astype(np.float32)
    return Response(entropies, most, CHUNK, lambda t: t % 5 != 4, draw)


def said(number, start):
    """Texts that a made-up student writes: some starts say one thing, others several."""
    draw = np.random.default_rng([number, start])
    return [f"w{draw.integers(1 + start % 4)}" for _ in range(SAMPLES)]


def student(starts):
    return [[said(i, start) for start in own] for i, own in enumerate(starts)]


def vector(text):
    found = np.random.default_rng(int(text[1:])).normal(size=8).astype(np.float32)
    return found / np.linalg.norm(found)


def embed(texts):
    assert len(set(texts)) == len(texts)  # each text once
    return np.stack([vector(text) for text in texts])


def plain(response, number):
    ranked = sorted(range(len(response.entropies_T)), key=lambda t: -response.entropies_T[t])
    taken = []
    for t in ranked:
        fits = t + CHUNK <= len(response.entropies_T) and response.eligible(t)
        if fits and all(abs(t - o) >= CHUNK for o in taken) and len(taken) < 3 * response.max_forks:
            taken.append(t)
    scores = {}
    for t in taken:
        texts = said(number, t)
        cosines = [
            float(vector(a).astype(float) @ vector(b).astype(float))
            for i, a in enumerate(texts)
            for b in texts[i + 1 :]
        ]
        scores[t] = round(1 - sum(cosines) / len(cosines), 6)
    best = sorted(scores, key=lambda t: (-scores[t], -t))[: response.max_forks]
    return sorted(best)


def test_the_forks_are_those_of_a_plain_version():
    draw = np.random.default_rng(0)
    responses = [response(draw, int(length)) for length in draw.integers(1, 40, 60)]
    found = positions(responses, student, embed)
    assert found == [plain(one, i) for i, one in enumerate(responses)]
    assert {len(starts) for starts in found} == {0, 1, 2}
    assert found != [peak_entropy.positions(one) for one in responses]


def test_forks_lie_a_chunk_apart_and_fit():
    draw = np.random.default_rng(1)
    responses = [response(draw, 30, most=4) for _ in range(20)]
    for one, starts in zip(responses, positions(responses, student, embed), strict=True):
        assert starts == sorted(starts)
        assert all(b - a >= CHUNK for a, b in itertools.pairwise(starts))
        assert starts[-1] + CHUNK <= 30
        assert all(one.eligible(t) for t in starts)


def test_where_the_student_always_says_the_same_the_latest_candidates_are_taken():
    draw = np.random.default_rng(2)
    one = response(draw, 40)
    (found,) = positions([one], lambda starts: [[["w1"] * 4 for _ in starts[0]]], embed)
    wide = peak_entropy.positions(one._replace(max_forks=CANDIDATES * one.max_forks))
    assert found == wide[-2:]


def test_variance_is_one_less_the_mean_cosine_of_the_pairs():
    axes = np.eye(3, dtype=np.float32)
    assert variance(axes) == 1.0
    assert variance(axes[[0, 0, 0, 0]]) == 0.0
    assert variance(axes[[0, 0, 1, 1]]) == round(1 - 2 / 6, 6)


def test_the_students_continuations_belong_to_their_place_and_not_to_their_batch():
    from stages import forks

    policy = naive.tiny(0)
    draw = np.random.default_rng(4)
    rows = [
        {
            "rollout_id": f"r{i}",
            "prompt_token_ids": draw.integers(2, 18, 4).tolist(),
            "token_ids": draw.integers(2, 18, 12).tolist(),
        }
        for i in range(6)
    ]
    p = forks.AskingParams.model_validate(
        {
            "scheduler": "embedding-variance", "max_forks": 1, "chunk_tokens": 3, "seed": 0,
            "round": 1, "continuations": 4,
        }
    )  # fmt: skip
    starts = [[0, 5], [], [2], [1, 4, 7], [3], [6]]
    together = forks._continued(policy, p, rows, starts)
    alone = [
        forks._continued(policy, p, [row], [own])[0] for row, own in zip(rows, starts, strict=True)
    ]
    assert together == alone
    assert [[len(texts) for texts in own] for own in together] == [[4] * len(s) for s in starts]
    assert any(len(set(texts)) > 1 for own in together for texts in own)
    assert embedding_variance.CANDIDATES == 3
