"""The cells of evaluate.agreement: whose, on which prompts, asked how, and what it may not be."""

import pytest
from ruamel.yaml import YAML

from pipeline.commands.estimate import estimate as costs
from pipeline.core.errors import UserError
from pipeline.judgments.store import Store
from pipeline.plan import expand, experiment
from tests.project import MINIATURE

AGREEMENT = {"of": ["answers", "forks"], "samples": 3, "metric": "prefix"}


def planned(agreement=AGREEMENT, arms=("omniopd", "sft", "wrong-teacher"), **of_experiment):
    values = YAML(typ="safe").load(MINIATURE.read_text())
    values["experiment"] |= {"arms": list(arms), **of_experiment}
    values["prepare"]["train"] = 64
    values["evaluate"]["agreement"] = agreement
    found = experiment.of(values, "params.yaml")
    return found, expand.expand(found)["cells"]


def cell(cells, key):
    return next(own[key] for name, own in cells.items() if name in expand.GROUPS and key in own)


def test_base_and_the_last_student_of_each_arm_answer_one_rounds_prompts():
    found, cells = planned(seeds=[0, 1])
    looks, last = cells["held_out"], found.experiment.rounds
    assert list(looks) == ["base", "omniopd", "sft", "wrong-teacher"]
    for arm, seeds in looks.items():
        assert list(seeds) == ["seed-0", "seed-1"]
        for seed, rounds in seeds.items():
            ((round_, own),) = rounds.items()
            assert round_ == ("round-0" if arm == "base" else f"round-{last}")
            made = cells["arms"][arm][seed][round_]
            policy = made["policy"] if arm == "base" else f"data/train/{made['train']}"
            for of in ("answers", "forks"):
                rollout = cell(cells, own[f"rollout-{of}"])
                assert rollout["policy"] == policy
                assert rollout["params"]["round"] == last + 1
                # measured by the teacher of the base blocks, whatever the arm overrides
                taught = cell(cells, own[f"teach-{of}"])["params"]
                assert (taught["teacher"], taught["samples"]) == ("carries", 3)
                scored = cell(cells, own[f"score-{of}"])["params"]
                assert (scored["metric"], scored["source"]) == ("prefix", "similarity")
                assert scored["allow_flat"]
            whole = cell(cells, own["forks-answers"])["params"]
            assert (whole["scheduler"], whole["max_forks"]) == ("whole", 1)
            assert whole["chunk_tokens"] == found.rollout.max_new_tokens
            assert cell(cells, own["forks-forks"])["params"]["scheduler"] == "peak-entropy"


def test_nobody_asked_no_cell_and_no_other_cell_changes():
    _, without = planned(None)
    _, one = planned({"of": ["answers"]})
    assert without["held_out"] == {}
    assert "held_out" not in without["report"]["report"]["params"]
    for group in expand.GROUPS[:-1]:
        assert without[group].items() <= one[group].items()
    assert without["arms"] == one["arms"]
    assert {stage for own in one["held_out"]["sft"]["seed-0"].values() for stage in own} == {
        "rollout-answers", "forks-answers", "teach-answers", "score-answers"
    }  # fmt: skip


def test_several_steps_in_a_cell_have_it_too():
    found, cells = planned(rounds=2, steps_per_cell=2, arms=["omniopd"])
    (own,) = cells["held_out"]["omniopd"]["seed-0"].values()
    made = cells["arms"]["omniopd"]["seed-0"]["round-2"]["train"]
    assert cell(cells, own["rollout-forks"])["policy"] == f"data/train/{made}"
    assert cell(cells, own["rollout-forks"])["params"]["round"] == found.experiment.rounds + 1


def test_its_answers_are_estimated_and_whole_ones_once_for_all_students(tmp_path, monkeypatch):
    found, cells = planned()
    monkeypatch.chdir(tmp_path)
    with Store(f"sqlite:///{tmp_path}/judgments.sqlite", "one") as store:
        rows = costs.estimate(found, {"cells": cells}, store)
    own = [row for row in rows if row["arm"].endswith("+held-out")]
    assert len(own) == 2 * 4
    prompts = found.rollout.prompts_per_round
    answers = [row["answers"] for row in own if row["answers"] == 3 * prompts]
    assert len(answers) == 1
    assert [row["counted"] for row in own].count("shared with base+held-out") == 3


def test_without_prompts_to_hold_out_it_is_refused():
    values = YAML(typ="safe").load(MINIATURE.read_text())
    values["evaluate"]["agreement"] = {}
    rounds, size = values["experiment"]["rounds"], values["rollout"]["prompts_per_round"]
    values["prepare"]["train"] = rounds * size
    with pytest.raises(UserError, match=rf"prepare.train.*{(rounds + 1) * size}.*agreement"):
        experiment.of(values, "params.yaml")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"of": []}, "agreement.of"),
        ({"of": ["chunks"]}, "agreement.of"),
        ({"samples": 1}, "agreement.samples"),
        ({"metric": "rouge9"}, "rouge9"),
    ],
)
def test_other_values_are_refused_by_key(changed, said):
    with pytest.raises(UserError, match=said):
        planned(changed)


def test_arms_are_not_measured_each_in_its_own_way():
    values = YAML(typ="safe").load(MINIATURE.read_text())
    values["prepare"]["train"] = 64
    values["arms"]["sft"]["evaluate"] = {"agreement": {"of": ["forks"]}}
    values["experiment"]["arms"] = ["omniopd", "sft"]
    with pytest.raises(UserError, match=r"arms\.sft\.evaluate\.agreement.*measured alike"):
        experiment.of(values, "params.yaml")
