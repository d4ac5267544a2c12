"""A rollout whose entropies the engine kept: some rows are read once more, and must agree."""

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.engines.scoring_pass import exact
from pipeline.engines.vllm.engine import Sampled
from stages import rollout as stage
from stages.rollout import RolloutParams, rollout
from tests import naive
from tests.engines.test_prerendered import asked

PREPARE = {"task": "arithmetic", "seed": 7, "digits": 1, "train": 9, "dev": 1, "test": 1}
P = {
    **{"engine": "vllm", "prompts_per_round": 8, "samples_per_prompt": 2, "max_new_tokens": 6},
    **{"temperature": 1.0, "top_p": 1.0, "top_k": 0, "exact": "engine", "seed": 0, "round": 1},
    "prepare": PREPARE,
}
ASKED = asked(*(f"{i}+{i}" for i in range(8)))
RESPONSES = [[2 + (i + j) % 9 for j in range(3 + i % 4)] for i in range(16)]


@pytest.fixture(scope="module")
def policy():
    return naive.tiny(1)


@pytest.fixture(scope="module")
def sampled(policy):
    """What an engine would have kept: the exact values, a little off."""
    prompts = [policy.prompt_ids(one.messages) for one in ASKED for _ in range(2)]
    found = {i: values for i, *values in exact(policy, prompts, RESPONSES, 999)}
    return [
        Sampled(ids, "length", *[(x + 1e-5).tolist() for x in found[i]])
        for i, ids in enumerate(RESPONSES)
    ]


class Kept:
    """Stands in for the state that a stage keeps."""

    removed = 0

    def remove(self):
        self.removed += 1


def rows(policy, sampled, monkeypatch, counts, kept=None, **changed):
    """The table of these samples, and how many of them were read by the exact pass."""
    read, plain = [], stage._exact

    def seen(policy, contexts_B, responses_B, *rest):
        read.extend(responses_B)
        return plain(policy, contexts_B, responses_B, *rest)

    monkeypatch.setattr(stage, "_exact", seen)
    p = RolloutParams.model_validate({**P, **changed})
    tables = rollout(policy, ASKED, p, 64, counts, kept, sampled)
    return [row for table in tables for row in table.to_pylist()], len(read)


def test_the_table_has_what_the_engine_kept_and_four_rows_were_read(policy, sampled, monkeypatch):
    counts = {}
    found, read = rows(policy, sampled, monkeypatch, counts)
    assert read == counts["engine_checked_rows"] == 4
    for row, one in zip(found, sampled, strict=True):
        np.testing.assert_array_equal(row["logprobs"], np.float32(one.logprobs))
        np.testing.assert_array_equal(row["entropies"], np.float32(one.entropies))
    for name in ("engine_gap", "engine_entropy_gap"):
        assert 5e-6 < counts[f"{name}_mean"] <= counts[f"{name}_max"] < 3e-5


def test_pass_reads_every_row_and_the_table_has_that(policy, sampled, monkeypatch):
    counts = {}
    far = [one._replace(entropies=[9.0] * len(one.entropies)) for one in sampled]
    found, read = rows(policy, far, monkeypatch, counts, exact=None)
    assert read == len(sampled)
    assert counts["engine_entropy_gap_mean"] > 1  # a diagnostic, and no more
    for row, one in zip(found, sampled, strict=True):
        np.testing.assert_allclose(row["entropies"], one.entropies, atol=2e-5)


@pytest.mark.parametrize("wrong", ["logprobs", "entropies"])
def test_an_engine_of_other_weights_stops_the_stage_and_nothing_is_kept(
    wrong, policy, sampled, monkeypatch
):
    """As much as one optimizer step moves a student."""
    off = [one._replace(**{wrong: [x + 5e-4 for x in getattr(one, wrong)]}) for one in sampled]
    what, kept = "log-probabilities" if wrong == "logprobs" else "entropies", Kept()
    with pytest.raises(UserError, match=rf"found its {what} 0\.0005.* over 4 responses"):
        rows(policy, off, monkeypatch, {}, kept)
    assert kept.removed == 1
