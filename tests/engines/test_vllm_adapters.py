"""Adapters in vLLM: what it samples is the adapted student, and nothing is merged for it."""

import json
import shutil

import numpy as np
import pytest
import torch

from pipeline.config.method import Lora
from pipeline.core.errors import UserError
from pipeline.engines import adapters
from pipeline.engines.hf import generate, load
from pipeline.engines.sampling import GREEDY
from pipeline.engines.vllm import engine as vllm
from tests.engines.test_vllm import (  # noqa: F401
    CPU,
    PROMPTS,
    apart,
    folder,
    installed,
    jobs,
    packages,
    services,
    settings,
)

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
    with vllm.Engine(adapter, CPU, exact=True) as engine:
        found = dict(engine.sample(jobs(), settings()))
        greedy = dict(engine.sample(jobs(), settings(temperature=0.0)))
    rows = [found[i][0] for i in range(len(PROMPTS))]
    assert apart(load(adapter), rows)["engine_gap_max"] < 1e-3
    assert apart(load(folder), rows)["engine_gap_mean"] > 0.05
    assert apart(load(adapter), rows)["engine_entropy_gap_max"] < 1e-3
    zeros = [np.zeros(20)] * len(PROMPTS)
    own = dict(generate(load(adapter), PROMPTS, zeros, GREEDY, 20, 9999))
    assert {i: g.token_ids for i, g in own.items()} == {
        i: g[0].token_ids for i, g in greedy.items()
    }
    files = (*folder.iterdir(), *adapter.iterdir())
    assert {path: path.stat().st_mtime_ns for path in files} == before


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
