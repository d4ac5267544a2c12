"""Adapters in vLLM: what it samples is the adapted student, and nothing is merged for it."""

import json
import shutil

import numpy as np
import pytest
import torch

from pipeline.config.method import Lora
from pipeline.config.params import Runtime
from pipeline.core.errors import UserError
from pipeline.engines import adapters
from pipeline.engines.hf import generate, load
from pipeline.engines.sampling import GREEDY
from pipeline.engines.scoring_pass import exact
from pipeline.engines.vllm import engine as vllm
from pipeline.method.elsewhere import gaps
from tests.engines.test_vllm import (  # noqa: F401
    CPU,
    PROMPTS,
    folder,
    installed,
    jobs,
    packages,
    services,
    settings,
)

TOP = 5
LORA = Lora(rank=3, alpha=6.0, targets=("q_proj", "v_proj", "down_proj"))


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):  # noqa: F811
    """An adapter on it that changes what is sampled."""
    policy = load(folder)
    adapters.add(policy.model, LORA, seed=3)
    torch.manual_seed(5)
    for parameter in policy.model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.15)
    found = tmp_path_factory.mktemp("adapter") / "checkpoint"
    adapters.save(policy.model, policy.tokenizer, folder, found)
    return found


@services
def test_an_adapter_samples_what_transformers_says_of_it_and_not_of_its_base(
    folder,  # noqa: F811
    adapter,
    installed,  # noqa: F811
):
    before = {path: path.stat().st_mtime_ns for path in (*folder.iterdir(), *adapter.iterdir())}
    with vllm.Engine(adapter, Runtime(engine_entropies=TOP), processed=True) as engine:
        found = dict(engine.sample(jobs(), settings(), logprobs=True))
        greedy = dict(engine.sample(jobs(), settings(temperature=0.0)))
    rows = [found[i][0] for i in range(len(PROMPTS))]
    assert _gap(adapter, rows)["engine_gap_max"] < 1e-3
    assert _gap(folder, rows)["engine_gap_mean"] > 0.05
    for prompt, row in zip(PROMPTS, rows, strict=True):
        assert row.entropies == pytest.approx(_bounded(load(adapter), prompt, row), abs=1e-3)
    zeros = [np.zeros(20)] * len(PROMPTS)
    own = dict(generate(load(adapter), PROMPTS, zeros, GREEDY, 20, 9999))
    assert {i: g.token_ids for i, g in own.items()} == {
        i: g[0].token_ids for i, g in greedy.items()
    }
    files = (*folder.iterdir(), *adapter.iterdir())
    assert {path: path.stat().st_mtime_ns for path in files} == before


def _bounded(policy, prompt, row):
    """Entropies of the TOP most likely tokens and of all others as one, from plain logits."""
    ids = torch.tensor([[*prompt, *row.token_ids]])
    with torch.no_grad():
        logits_TV = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double()
    probs_TV = torch.softmax(logits_TV[:, : len(policy.tokenizer)], -1).sort(descending=True)[0]
    parts = torch.cat([probs_TV[:, :TOP], probs_TV[:, TOP:].sum(1, keepdim=True)], 1)
    return (-(parts * parts.log()).sum(1)).tolist()


def _gap(checkpoint, rows):
    responses = [row.token_ids for row in rows]
    read = {i: logps for i, logps, _ in exact(load(checkpoint), PROMPTS, responses, 999)}
    return gaps([row.logprobs for row in rows], [read[i] for i in range(len(rows))])


@services
def test_an_adapter_on_another_base_is_refused_before_an_engine_starts(
    folder,  # noqa: F811
    adapter,
    installed,  # noqa: F811
    tmp_path,
):
    moved = tmp_path / "checkpoint"
    shutil.copytree(adapter, moved)
    (moved / "base.json").write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(UserError, match="wanted 000000000000, the one that the adapter"):
        vllm.Engine(moved, CPU)


def test_vllm_makes_room_for_the_rank_of_an_adapter(adapter, folder):  # noqa: F811
    assert vllm.adapter(folder) == {}
    found = vllm.adapter(adapter)
    assert (found["enable_lora"], found["max_lora_rank"]) == (True, 8)  # rank 3; there is no 4
