"""Pairs of the teacher's and the student's text: by DPO's own formula, and what makes a pair."""

from argparse import Namespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.engines.hf import Frozen
from pipeline.method.objectives import declared, one_sided, preference, soda
from pipeline.training.evidence.examples import Evidence
from pipeline.training.gradients import gradients
from tests import naive
from tests.training.test_training import (
    ANCHORED,
    BETA,
    PAIRED,
    close,
    examples,
    frozen_for,
    step,
    weighed,
)

PAIR_BETA = 0.7
ROLLOUT = {
    "round": 1,
    "prompt_token_ids": [3, 2],
    "entropies": [],
    "text": "",
    "finish_reason": "stop",
    "reward": None,
}


def dpo(student, reference, found, objective):
    """Loss and gradient by plain float64 autograd: each margin from whole sequences."""
    model, base = naive.double(student), naive.double(reference)
    vocabulary, total = len(student.tokenizer), torch.zeros((), dtype=torch.float64)

    def ratio_T(sequence):
        own = naive.logps(model, sequence.context_ids, sequence.token_ids, vocabulary)
        with torch.no_grad():
            other = naive.logps(base, sequence.context_ids, sequence.token_ids, vocabulary)
        ids = torch.tensor(sequence.token_ids)[:, None]
        return (own - other).gather(1, ids)[:, 0], own, other

    for example in found:
        response, *answers = example.sequences
        own_T, logp_TV, base_TV = ratio_T(response)
        for number in {float(a.weight_T[0]) for a in answers}:
            chunk = own_T[torch.from_numpy(response.weight_T == number)].sum()
            preferred = [a for a in answers if a.weight_T[0] == number]
            for answer in preferred:
                margin = PAIR_BETA * (ratio_T(answer)[0].sum() - chunk)
                total = total - torch.nn.functional.logsigmoid(margin) / len(preferred)
        if objective in ANCHORED:
            kl_T = (base_TV.exp() * (base_TV - logp_TV)).sum(-1)
            total = total + BETA * kl_T[torch.from_numpy(response.anchor_T)].sum()
    loss = total / len(found)
    loss.backward()
    return float(loss.detach()), [p.grad for p in model.parameters()]


@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize("objective", PAIRED)
def test_loss_and_gradient_are_those_of_dpo_in_float64(objective, size):
    student, frozen, found = naive.tiny(1), frozen_for(objective), examples(objective)
    how = step(objective, size)
    ours = weighed(objective, student, frozen, found, how)
    sums, metrics = gradients(student, frozen, ours, how)
    loss, grads = dpo(student, frozen.reference, found, objective)
    assert metrics["train/loss"] == pytest.approx(loss, abs=1e-5)
    close(sums.grads, grads)
    assert max(float(g.abs().max()) for g in grads) > 1e-3
    assert sums.responses == len(found)


def test_at_the_reference_every_pair_is_log_2_and_pulls_by_half():
    student, found = naive.tiny(1), examples("soda")
    frozen, how = Frozen(naive.tiny(1)), step("soda")
    ours = weighed("soda", student, frozen, found, how)
    assert gradients(student, frozen, ours, how)[1]["train/signal"] == pytest.approx(np.log(2))
    for example in ours:
        response, answer = example.sequences
        assert response.weight_T == pytest.approx(-PAIR_BETA / 2)
        assert answer.weight_T == pytest.approx(PAIR_BETA / 2)


def response(name, ids, sample=0):
    return {
        **ROLLOUT,
        "rollout_id": name,
        "prompt_id": name.partition("-")[0],
        "sample": sample,
        "token_ids": ids,
        "logprobs": [-0.5] * len(ids),
    }


def answer(name, position, sample, ids, ended=False):
    return {
        "rollout_id": name,
        "position": position,
        "sample": sample,
        "token_ids": ids,
        "ended": ended,
    }


def test_the_pairs_of_a_response_are_its_chunks_with_the_answers_that_differ():
    rollouts = pa.Table.from_pylist([response("a", [4, 5, 6, 7, 8]), response("b", [4, 4])])
    forks = pa.Table.from_pylist(
        [
            {"rollout_id": "a", "position": 0, "length": 2},
            {"rollout_id": "a", "position": 2, "length": 2},
        ]
    )
    answers = pa.Table.from_pylist(
        [
            *(answer("a", 0, 0, [4, 5]), answer("a", 0, 1, [9, 9])),
            *(answer("a", 2, 0, [6], True), answer("a", 2, 1, [])),
        ]
    )
    both = preference.examples(rollouts, forks, answers, 2, 1)
    (first, one, two), (second,) = (e.sequences for e in both)
    assert first.weight_T.tolist() == [1, 1, 2, 2, 0]  # an equal answer is no pair
    assert first.signal_T.tolist() == [True] * 4 + [False]
    assert first.anchor_T.tolist() == [False] * 4 + [True]
    assert (one.token_ids, one.weight_T.tolist()) == ([9, 9], [1, 1])
    assert (two.token_ids, two.weight_T.tolist()) == ([6, 1], [2, 2])  # with the end
    assert two.context_ids[-2:] == [4, 5]
    assert not second.signal_T.any()
    (alike, *none), _ = (e.sequences for e in preference.examples(rollouts, forks, answers, 1, 1))
    assert alike.weight_T.tolist() == [0, 0, 2, 2, 0]
    assert len(none) == 1


def test_soda_pairs_samples_of_a_prompt_and_leaves_cut_solutions_out():
    rollouts = pa.Table.from_pylist(
        [response("a-0", [4, 1]), response("a-1", [5, 1], 1), response("b-0", [6, 1])]
    )
    answers = pa.Table.from_pylist(
        [
            *(answer("a", 0, 0, [4], True), answer("a", 0, 1, [7], True)),
            *(answer("b", 0, 0, [8]), answer("b", 0, 1, [9], True)),
        ]
    )
    found, cut = soda.examples(rollouts, answers, {"a": [3], "b": [2]}, 1)
    ((own, theirs),) = (
        e.sequences for e in found
    )  # of equal tokens and of a cut one there is none
    assert (own.token_ids, theirs.token_ids, theirs.context_ids) == ([5, 1], [7, 1], [3])
    assert cut == 1


def test_whole_solutions_come_with_the_responses_to_their_prompts(tmp_path):
    """Also where a block of rollouts ends between two responses to one prompt."""
    from pipeline.data import schemas, tables

    names = [f"p{i:03d}-{j}" for i in range(50) for j in range(3)]
    rollouts = pa.Table.from_pylist(
        [response(n, [4, 1], int(n[-1])) for n in names], schema=schemas.ROLLOUTS
    )
    solutions = pa.Table.from_pylist(
        [
            {
                **dict.fromkeys(("teacher", "text", "finish_reason", "model_returned"), ""),
                **dict.fromkeys(("prompt_tokens", "completion_tokens"), 1),
                "request_key": "",
                **answer(f"p{i:03d}", 0, s, [5], True),
            }
            for i in range(50)
            for s in range(2)
        ],
        schema=schemas.ANSWERS,
    )
    paths = {"rollouts": (rollouts, schemas.ROLLOUTS), "answers": (solutions, schemas.ANSWERS)}
    for name, (table, schema) in paths.items():
        tables.write(table, tmp_path / f"{name}.parquet", schema)
    args = Namespace(**{name: tmp_path / f"{name}.parquet" for name in paths})
    evidence = Evidence(None, args, Namespace(ends=(1,)), None)
    blocks = [*evidence.by_prompt("answers")]
    assert len(blocks) == 2
    assert 128 % 3  # so that a prompt lies in both
    ids = {f"p{i:03d}": [2] for i in range(50)}
    pairs = [len(soda.examples(*block, ids, 1)[0]) for block in blocks]
    assert sum(pairs) == 100  # two of three responses to each prompt


def test_a_token_is_pushed_down_by_its_probability_under_who_wrote_it():
    row = response("a", [4, 5, 6]) | {"logprobs": np.log([0.5, 0.05, 0.25]).tolist()}
    own = declared("one-sided").settings.model_construct(rare_below=0.2, rare_weight=0.5)
    (example,) = one_sided.examples(pa.Table.from_pylist([row]), own)
    (found,) = example.sequences
    assert found.weight_T.tolist() == [0, -0.5, 0]
    assert found.signal_T.tolist() == [False, True, False]
    assert found.anchor_T.tolist() == [True, False, True]
