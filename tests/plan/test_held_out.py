"""The cells of evaluate.agreement: whose, on which prompts, asked how, and what it may not be."""

import json

import pytest
from ruamel.yaml import YAML

from pipeline.commands.estimate import estimate as costs
from pipeline.core.errors import UserError
from pipeline.judgments.store import Store
from pipeline.plan import expand, experiment
from pipeline.plan.evaluation import held_out
from pipeline.stage import dataflow
from tests.project import MINIATURE

AGREEMENT = {"of": ["answers", "forks"], "samples": 3, "metric": "prefix"}


def planned(
    agreement=AGREEMENT, arms=("omniopd", "sft", "wrong-teacher"), judge=None, **of_experiment
):
    values = YAML(typ="safe").load(MINIATURE.read_text())
    values["experiment"] |= {"arms": list(arms), **of_experiment}
    values["prepare"]["train"] = 64
    values["evaluate"] |= {"agreement": agreement, "judge": judge}
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


def test_a_judge_compares_each_arms_last_student_with_base_by_a_teacher_of_its_own():
    judge = {"teacher": "never-carries", "pairs": 2, "samples": 3, "tokens": 5}
    found, cells = planned(None, judge=judge)
    looks, last = cells["held_out"], f"round-{found.experiment.rounds}"
    assert list(looks["base"]["seed-0"]["round-0"]) == ["rollout-judge"]
    for arm in ("omniopd", "sft", "wrong-teacher"):
        own = looks[arm]["seed-0"][last]
        assert list(own) == ["rollout-judge", "teach-judge"]
        asked = cells["teach-judge"][own["teach-judge"]]
        assert asked["rollouts"] == own["rollout-judge"]
        assert asked["beside"] == looks["base"]["seed-0"]["round-0"]["rollout-judge"]
        assert "forks" not in asked
        p = asked["params"]
        assert (p["teacher"], p["pairs"], p["samples"]) == ("never-carries", 2, 3)
        assert p["chunk_tokens"] == 5
    assert {dep for dep in dataflow.deps("teach-judge", asked) if "rollout" in dep} == {
        f"data/rollout/{asked[name]}/rollouts.parquet" for name in ("rollouts", "beside")
    }


def test_a_judges_replies_are_estimated(tmp_path, monkeypatch):
    found, cells = planned(None, judge={"teacher": "carries", "pairs": 2})
    monkeypatch.chdir(tmp_path)
    with Store(f"sqlite:///{tmp_path}/judgments.sqlite", "one") as store:
        rows = costs.estimate(found, {"cells": cells}, store)
    own = [row for row in rows if row["arm"].endswith("+held-out")]
    assert [row["answers"] for row in own] == [2 * 2 * found.rollout.prompts_per_round] * 3


def test_a_judge_that_is_not_there_or_has_no_way_to_be_asked_is_refused():
    with pytest.raises(UserError, match=r"evaluate\.judge\.teacher.*nobody"):
        planned(None, judge={"teacher": "nobody"})
    with pytest.raises(UserError, match=r"evaluate\.judge"):
        planned(None, judge={"pairs": 1})
    found, _ = planned(None, judge={"teacher": "anthropic:claude-haiku-4-5-20251001"})
    judge = found.teachers[found.evaluate.judge.teacher]
    assert (judge.kind, judge.model) == ("anthropic", "claude-haiku-4-5-20251001")


def test_more_pairs_than_answers_are_refused():
    with pytest.raises(UserError, match=r"evaluate\.judge\.pairs.*99.*samples_per_prompt"):
        planned(None, judge={"teacher": "carries", "pairs": 99})


def test_a_local_judge_is_asked_as_a_local_one_whatever_the_teacher_is():
    found, _ = planned(None, judge={"teacher": "carries"})
    settings = held_out.settings_of(found, "teach-judge")
    assert settings.teach.continuation == "completions"


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
    ("over", "said"),
    [
        (
            {"rollout": {"prompts_per_round": 13}},
            r"arms\.sft\.rollout\.prompts_per_round.*13.*hold",
        ),
        ({"prepare": {"seed": 99}}, r"arms\.sft\.prepare.*holds out"),
    ],
)
def test_an_arm_that_would_train_on_held_out_prompts_is_refused(over, said):
    values = YAML(typ="safe").load(MINIATURE.read_text())
    values["prepare"]["train"] = 64
    values["arms"]["sft"] |= over
    values["experiment"]["arms"] = ["omniopd", "sft"]
    experiment.of(values, "params.yaml")
    values["evaluate"]["agreement"] = {}
    with pytest.raises(UserError, match=said):
        experiment.of(values, "params.yaml")


def test_imported_rollouts_are_the_arms_and_the_students_own_are_looked_at(tmp_path):
    lines = (json.dumps({"prompt": f"Why {i}?", "response": "So."}) for i in range(64))
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    values = YAML(typ="safe").load(MINIATURE.read_text())
    file = str(tmp_path / "my.jsonl")
    values["prepare"] = {
        "task": "prompts", "file": file, "seed": 1, "train": 64, "responses": True
    }  # fmt: skip
    values["experiment"] |= {"arms": ["omniopd"], "rounds": 1}
    values["evaluate"]["agreement"] = {}
    cells = expand.expand(experiment.of(values, "params.yaml"))["cells"]
    (own,) = cells["held_out"]["omniopd"]["seed-0"].values()
    assert "responses" not in cell(cells, own["rollout-answers"])["params"]["prepare"]
    assert len(cells["prepare-rows"]) == 1  # the pool of the arms
    taught = cells["arms"]["omniopd"]["seed-0"]["round-1"]["teach"]
    assert cell(cells, taught)["teacher"] == cell(cells, own["teach-answers"])["teacher"]


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
