"""A report of arms that no task could grade: what it says instead, and what it must not say."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment, power
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


def own_prompts(tmp_path, arms):
    values = YAML(typ="safe").load(MINIATURE.read_text())
    lines = (json.dumps({"prompt": f"Why {i}?"}) for i in range(64))
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    file = str(tmp_path / "my.jsonl")
    values["prepare"] = {"task": "prompts", "file": file, "seed": 1, "train": 64}
    values["experiment"]["arms"] = arms
    return experiment.of(values, "params.yaml")


def test_own_prompts_are_planned_without_evaluations(tmp_path):
    found = own_prompts(tmp_path, ["omniopd", "sft", "shuffled-scores"])
    cells = expand.expand(found)["cells"]
    assert cells["train-omniopd" if "train-omniopd" in cells else "train"]
    assert not any(group.startswith("evaluate") and cells[group] for group in cells)
    assert power.line(found).startswith("trained, not evaluated: task prompts has no checker")


@pytest.mark.parametrize("arm", ["grpo", "rft"])
def test_what_needs_a_reward_says_so_by_name(tmp_path, arm):
    with pytest.raises(
        UserError, match=rf"arms\.{arm}: train\.objective: found '{arm}'.*no checker"
    ):
        own_prompts(tmp_path, ["omniopd", arm])
