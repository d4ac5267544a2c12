"""lm-evaluation-harness on a checkpoint of ours, with a task that needs no download."""

import importlib.util
import json
import subprocess
import sys

import pytest

from pipeline.commands import lm_eval
from pipeline.core.errors import UserError
from tests.project import Project
from tests.tasks.test_extending_task import student

TASK = """
task: own_letters
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["a", "b"]
doc_to_target: "{{label}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
installed = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs the extra harness (lm-eval)"
)


def test_an_arm_means_its_last_round_and_base_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student(tmp_path / "data/train/c10/checkpoint")
    student(tmp_path / "data/pretrain/c0/checkpoint")
    arm = {"round-9": {"train": "c9"}, "round-10": {"train": "c10"}}
    base = {"round-0": {"policy": "data/pretrain/c0", "evaluate": "c1"}}
    found = {"cells": {"arms": {"omniopd": {"seed-0": arm}, "base": {"seed-0": base}}}}
    assert str(lm_eval.checkpoint(found, "omniopd", 0)) == "data/train/c10/checkpoint"
    assert str(lm_eval.checkpoint(found, "base", 0)) == "data/pretrain/c0/checkpoint"
    with pytest.raises(UserError, match="'omniopd' with seed 1 is neither a folder nor an arm"):
        lm_eval.checkpoint(found, "omniopd", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a checkpoint, lacks"):
        lm_eval.checkpoint({}, "empty", 0)


@installed
def test_a_checkpoint_is_evaluated_with_a_task_of_our_own(tmp_path):
    student(tmp_path / "checkpoint")
    rows = tmp_path / "rows.jsonl"
    found = [{"question": f"{i}?", "label": i % 2} for i in range(6)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in found))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/own.yaml").write_text(TASK.replace("ROWS", str(rows)))
    project = Project(tmp_path / "project")
    options = ["--tasks", "own_letters", "--include", str(tmp_path / "tasks")]
    command = [sys.executable, "-c", "from pipeline.commands.app import main; main()", "harness"]
    done = subprocess.run(
        [*command, str(tmp_path / "checkpoint"), *options],
        cwd=project.folder,
        env=project.environment(HF_HOME=str(tmp_path / "hub"), HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == {"own_letters": 6}
    accuracy = found["results"]["own_letters"]["acc,none"]
    assert 0 <= accuracy <= 1
    assert accuracy * 6 == round(accuracy * 6)


@pytest.mark.slow
@installed
def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--tasks: \['nosuch'\] are unknown"):
        lm_eval.run(tmp_path, ["nosuch"], None, None, True)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="it is installed")
def test_without_the_extra_the_message_says_how_to_install_it(tmp_path):
    with pytest.raises(UserError, match=r"Run `pip install -c constraints\.txt"):
        lm_eval.run(tmp_path, ["x"], None, None, True)
