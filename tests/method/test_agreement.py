"""train.baseline teacher-agreement: the weight less how much the teacher agrees with itself."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.data import schemas
from pipeline.engines.hf import Frozen
from pipeline.method.objectives import omniopd
from pipeline.method.teacher_agreement import agreement
from pipeline.training.gradients import gradients
from pipeline.training.optimizer_steps import Step
from tests import naive
from tests.training.test_training import terms

SAMPLES = 4


def answer(place, sample, text, ended=False):
    return {
        "rollout_id": place[0], "position": place[1], "sample": sample, "teacher": "t",
        "text": text, "ended": ended, "finish_reason": "length", "model_returned": "m",
        "prompt_tokens": 1, "completion_tokens": 1, "request_key": "k", "token_ids": [2],
    }  # fmt: skip


def made(seed=0):
    """Places of forks, and the answers to each, in disorder."""
    draw = np.random.default_rng(seed)
    places = [("a", 0), ("a", 4), ("b", 1), ("c", 0), ("c", 3)]
    rows = [
        answer(place, sample, "".join(draw.choice(list("01"), 2)), bool(draw.integers(2)))
        for place in places
        for sample in range(SAMPLES)
    ]
    return places, [rows[i] for i in draw.permutation(len(rows))]


def targets(places, weight):
    columns = {"rollout_id": [p[0] for p in places], "position": [p[1] for p in places]}
    return pa.table(columns | {"length": [2] * len(places), "weight": weight})


def pieces(rows, size):
    for first in range(0, len(rows), size):
        yield pa.Table.from_pylist(rows[first : first + size], schema=schemas.ANSWERS)


def prefix(a, b):
    same = itertools.takewhile(lambda i: a[i] == b[i], range(min(len(a), len(b))))
    return len(list(same)) / max(len(a), len(b))


PLAIN = {
    "exact": lambda a, b: float((a["text"], a["ended"]) == (b["text"], b["ended"])),
    "prefix": lambda a, b: prefix(a["text"], b["text"]),
}


def plain(places, rows, metric):
    found = []
    for place in places:
        own = [row for row in rows if (row["rollout_id"], row["position"]) == place]
        pairs = [PLAIN[metric](a, b) for a in own for b in own if a["sample"] < b["sample"]]
        assert len(pairs) == SAMPLES * (SAMPLES - 1) / 2
        found.append(np.float64(sum(pairs)) / len(pairs))
    return np.array(found)


@pytest.mark.parametrize("size", [3, 100])
@pytest.mark.parametrize("metric", list(PLAIN))
def test_agreement_is_the_mean_similarity_of_all_pairs_of_a_forks_answers(metric, size):
    places, rows = made()
    found = agreement(targets(places, [0.5] * 5), pieces(rows, size), SAMPLES, metric)
    expected = plain(places, rows, metric)
    assert found == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 2


def test_a_teacher_that_says_one_thing_agrees_fully_with_itself():
    places = [("a", 0)]
    rows = [answer(places[0], sample, " 12") for sample in range(SAMPLES)]
    assert agreement(targets(places, [0.5]), pieces(rows, 9), SAMPLES, "edit").tolist() == [1.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:-1], "1 forks lack some of their samples 0 to 3"),
        (lambda rows: [*rows, rows[0]], "lack some|twice"),
        (lambda rows: [*rows, *(answer(("z", 0), s, "") for s in range(4))], "is no fork"),
        (lambda rows: [*rows, answer(("a", 0), 0, "other")], "twice|0 forks lack"),
    ],
)
def test_other_than_n_answers_a_fork_are_refused(change, said):
    places, rows = made()
    with pytest.raises(UserError, match=said):
        agreement(targets(places, [0.5] * 5), pieces(change(rows), 100), SAMPLES, "exact")


def test_loss_and_gradient_equal_naive_float64_with_weights_of_either_sign():
    student, reference = naive.tiny(1), naive.tiny(2)
    places, rows = made()
    draw = np.random.default_rng(3)
    hat = draw.random(len(places))
    lengths = {"a": 7, "b": 4, "c": 6}
    rollouts = pa.table(
        {
            "rollout_id": list(lengths),
            "prompt_token_ids": [draw.integers(2, 18, 5).tolist() for _ in lengths],
            "token_ids": [draw.integers(2, 18, n).tolist() for n in lengths.values()],
            "logprobs": [np.log(draw.uniform(0.05, 0.9, n)).tolist() for n in lengths.values()],
        }
    )
    table = targets(places, hat)
    agreed = agreement(table, pieces(rows, 100), SAMPLES, "prefix")
    found = omniopd.examples(rollouts, table, "teacher-agreement", agreed)
    step = Step(terms("omniopd", correct=True), 0.3, False, 2)
    sums, metrics = gradients(student, Frozen(reference), found, step)

    expected = hat - plain(places, rows, "prefix")
    assert expected.min() < 0 < expected.max()
    model, base = naive.double(student), naive.double(reference)
    loss = torch.zeros((), dtype=torch.float64)
    for row in rollouts.to_pylist():
        chunks = {
            p: w for (name, p), w in zip(places, expected, strict=True) if name == row["rollout_id"]
        }
        logp = naive.logps(model, row["prompt_token_ids"], row["token_ids"], 18)
        theirs = naive.logps(base, row["prompt_token_ids"], row["token_ids"], 18).detach()
        for t, token in enumerate(row["token_ids"]):
            start = next((p for p in chunks if p <= t < p + 2), None)
            if start is None:
                loss = loss + 0.3 * (theirs[t].exp() * (theirs[t] - logp[t])).sum()
            else:
                ratio = min(float((logp[t, token].detach() - row["logprobs"][t]).exp()), 2.0)
                loss = loss - ratio * float(chunks[start]) * logp[t, token]
    loss = loss / len(lengths)
    loss.backward()
    assert metrics["train/loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
    for ours, parameter in zip(sums.grads, model.parameters(), strict=True):
        assert torch.allclose(ours.double(), parameter.grad, rtol=1e-4, atol=1e-5)
