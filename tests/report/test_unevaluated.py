"""A report of arms that no task could grade: what it says instead, and what it must not say."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.analysis import costs, written
from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment
from pipeline.plan.evaluation import power
from tests import handmade
from tests.project import MINIATURE, ROOT
from tests.report.test_sections import plan_of


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unevaluated")
    handmade.experiment(folder, evaluated=False)
    command = [sys.executable, "-m", "stages.report", "--cell", "creport", "--out", "data/report"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_agreement_is_the_mean_over_prompts_of_what_was_scored(made):
    rows = json.loads((made / "data/report/agreement.json").read_text())
    assert {row["arm"] for row in rows} == {"omniopd", "shuffled-scores", "pair", "zero-score"}
    assert {row["teacher"] for row in rows if row["arm"] == "pair"} == {"one", "two"}
    (row,) = (r for r in rows if (r["arm"], r["round"]) == ("omniopd", 2))
    cells = plan_of(made)["arms"]["omniopd"]["seed-0"]["round-2"]
    scores = pd.read_parquet(made / f"data/score/{cells['score']}/scores.parquet")
    prompt = scores.rollout_id.str.rpartition("-")[0]
    expected = scores.similarity.groupby(prompt).mean()
    assert row["similarity"] == pytest.approx(expected.mean())
    assert row["low"] < row["similarity"] < row["high"]
    assert row["prompts"] == len(expected)


def test_the_report_says_that_nothing_was_graded(made):
    markdown = (made / "data/report/results.md").read_text()
    page = (made / "data/report/index.html").read_text()
    for text in (markdown, page):
        assert "Trained, not evaluated: the task has no checker" in text
        assert "0 problems" not in text
    assert "| omniopd " in markdown
    assert "## What was seen" not in markdown
    assert "## Verdicts" not in markdown
    assert json.loads((made / "data/report/results.json").read_text()) == []


def test_what_the_students_write_is_told_before_and_after(made):
    rows = {row["arm"]: row for row in json.loads((made / "data/report/written.json").read_text())}
    assert rows.keys() == {
        "base", "omniopd", "shuffled-scores", "pair", "zero-score", "grpo", "sft"
    }  # fmt: skip
    arms = plan_of(made)["arms"]
    after = arms["sft"]["seed-0"]["round-2"]["rollout-after"]
    first = arms["omniopd"]["seed-0"]["round-1"]["rollout"]
    for arm, key in (("sft", after), ("base", first)):
        rollouts = pd.read_parquet(made / f"data/rollout/{key}/rollouts.parquet")
        assert rows[arm]["responses"] == len(rollouts)
        assert rows[arm]["tokens"] == pytest.approx(rollouts.token_ids.map(len).mean())
        assert rows[arm]["cut_off"] == (rollouts.finish_reason == "length").mean()
    assert "| base " in (made / "data/report/results.md").read_text()


def test_a_look_at_the_trained_student_costs_its_arm_nothing(made):
    arms = plan_of(made)["arms"]
    cells = dict(arms["omniopd"]["seed-0"]["round-2"])
    run = json.dumps({"seconds": 1.0, "student_tokens": 7, "rows_out": 7})
    (made / f"data/rollout/{cells['rollout-after']}/run.json").write_text(run)
    assert costs.of_cell("rollout-after", json.loads(run)) == costs.Cost()
    assert costs.of_cell("rollout", json.loads(run)) != costs.Cost()


def test_the_text_of_another_trainer_is_not_told_as_the_students(made, monkeypatch):
    monkeypatch.chdir(made)
    arms = plan_of(made)["arms"]
    settings = {arm: {"prepare": {"responses": True}} for arm in arms}
    assert "base" in {row["arm"] for row in written.rows(arms, {})}
    assert "base" not in {row["arm"] for row in written.rows(arms, settings)}


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0), ("a b c", 0), ("a b c d e", 0), ("a b c d a b c d", 1 / 5), ("a a a a a", 1 / 2)],
)
def test_repeated_stretches_are_those_that_stand_earlier_in_the_text(text, share):
    assert written.repetition(text) == pytest.approx(share)


def own_prompts(tmp_path, arms, train=64, **of_experiment):
    values = YAML(typ="safe").load(MINIATURE.read_text())
    lines = (json.dumps({"prompt": f"Why {i}?"}) for i in range(64))
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    file = str(tmp_path / "my.jsonl")
    values["prepare"] = {"task": "prompts", "file": file, "seed": 1, "train": train}
    values["experiment"] |= {"arms": arms, **of_experiment}
    return experiment.of(values, "params.yaml")


def test_own_prompts_are_planned_without_evaluations(tmp_path):
    found = own_prompts(tmp_path, ["omniopd", "sft", "shuffled-scores"])
    cells = expand.expand(found)["cells"]
    assert cells["train-omniopd" if "train-omniopd" in cells else "train"]
    assert not any(group.startswith("evaluate") and cells[group] for group in cells)
    assert power.line(found).startswith("trained, not evaluated: task prompts has no checker")


@pytest.mark.parametrize(("more", "asked"), [(1, 3), (0, 2)])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_trained_student_answers_the_next_prompts_where_there_are_some(
    tmp_path, more, asked, steps
):
    size = own_prompts(tmp_path, ["omniopd"]).rollout.prompts_per_round
    found = own_prompts(
        tmp_path, ["omniopd", "sft"], train=(2 + more) * size, rounds=2, steps_per_cell=steps
    )
    cells = expand.expand(found)["cells"]
    assert not any("rollout-after" in r for r in list(cells["arms"]["sft"]["seed-0"].values())[:-1])
    for arm in ("omniopd", "sft"):
        last = cells["arms"][arm]["seed-0"]["round-2"]
        cell = cells["rollout"][last["rollout-after"]]
        assert cell["params"]["round"] == asked
        assert cell["policy"] == f"data/train/{last['train']}"


def test_no_train_cell_is_left_that_the_report_does_not_wait_for():
    """Of every profile: dvc.yaml leaves data/train out of the report's deps."""
    for path in [MINIATURE, *(ROOT / "pipeline/commands/profiles").glob("*.yaml")]:
        cells = expand.expand(experiment.load(path))["cells"]
        read = {str(v) for n, own in cells.items() if n in expand.GROUPS and n != "report"
                for cell in own.values() for k, v in cell.items() if k != "params"}  # fmt: skip
        trained = {f"data/train/{k}" for n in cells if n.startswith(("train", "steps"))
                   for k in cells[n]}  # fmt: skip
        assert trained, path
        assert trained <= read, path


def test_branches_which_compare_accuracies_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"experiment\.branch: .*no checker"):
        own_prompts(tmp_path, ["omniopd"], branch=["shuffled-scores"])


@pytest.mark.parametrize("arm", ["grpo", "rft"])
def test_what_needs_a_reward_says_so_by_name(tmp_path, arm):
    with pytest.raises(
        UserError, match=rf"arms\.{arm}: train\.objective: found '{arm}'.*no checker"
    ):
        own_prompts(tmp_path, ["omniopd", arm])
