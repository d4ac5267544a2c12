"""Metrics of each step go to other libraries while a stage trains; no cell depends on it."""

import json
import logging
import math
import sys
import types

import pytest

from pipeline.core.errors import UserError
from pipeline.training import trackers
from tests.telling import wait_for

RUN = trackers.Run("project", "omniopd seed 0", "round 1 cabc", {"lr": 0.1, "betas": [0.9, 0.98]})
STEPS = [(16, {"train/loss": 0.5, "train/grad_norm": None}), (17, {"train/loss": 0.25})]


def told(name, tmp_path, monkeypatch, **environment):
    """Tell STEPS to a library in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    pytest.importorskip(name)
    with trackers.tracking([name], RUN) as tell:
        for step, metrics in STEPS:
            tell(step, metrics)


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        name: [(one.step, one.value) for one in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def test_tensorboard(tmp_path, monkeypatch):
    told("tensorboard", tmp_path, monkeypatch)
    folder = tmp_path / ".trackers/tensorboard" / RUN.group / RUN.name
    assert events(folder) == {"train/loss": [(16, 0.5), (17, 0.25)]}


def test_mlflow(tmp_path, monkeypatch):
    told("mlflow", tmp_path, monkeypatch)
    import mlflow

    (run,) = mlflow.search_runs(experiment_names=["project"], output_format="list")
    assert run.info.run_name == RUN.name
    assert run.info.status == "FINISHED"
    assert run.data.params["lr"] == "0.1"
    found = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in found] == [(16, 0.5), (17, 0.25)]


def test_wandb(tmp_path, monkeypatch):
    told("wandb", tmp_path, monkeypatch, WANDB_MODE="offline")
    (folder,) = (tmp_path / ".trackers/wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    wait_for(lambda: b"train/loss" in file.read_bytes())  # its service writes behind


def test_wandb_without_a_key_is_refused_and_asks_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"found wandb without a key, wanted WANDB_API_KEY"):
        told("wandb", tmp_path, monkeypatch)


def test_trackio(tmp_path, monkeypatch):
    told("trackio", tmp_path, monkeypatch, TRACKIO_DIR=str(tmp_path / "kept"))
    import sqlite3

    (file,) = (tmp_path / "kept").glob("project*.db")
    rows = sqlite3.connect(file).execute("select step, metrics from metrics").fetchall()
    assert [(step, json.loads(text)["train/loss"]) for step, text in rows] == [
        (16, 0.5),
        (17, 0.25),
    ]


def test_a_library_that_is_not_there_is_named_before_anything_is_trained(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "pipeline.training.trackers.wandb", raising=False)
    with pytest.raises(
        UserError, match=r"found wandb, whose library is not there.*pip install wandb"
    ):
        trackers.tracking(["wandb"], RUN).__enter__()


@pytest.mark.parametrize("when", ["begins", "logs", "ends"])
def test_one_that_fails_is_left_out_and_its_message_is_not_repeated(monkeypatch, caplog, when):
    class Tracker:
        def __init__(self, run):
            self.fail("begins")

        def log(self, step, metrics):
            calls.append(step)
            self.fail("logs")

        def close(self):
            self.fail("ends")

        def fail(self, moment):
            if moment == when:
                raise ValueError("with the key sk-secret")

    calls, module = [], types.ModuleType("pipeline.training.trackers.wandb")
    module.Tracker = Tracker
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with caplog.at_level(logging.WARNING), trackers.tracking(["wandb"], RUN) as tell:
        tell(0, {"a": 1.0})
        tell(1, {"a": math.nan})
    assert calls == {"begins": [], "logs": [0], "ends": [0, 1]}[when]
    assert caplog.text.count("wandb failed (ValueError) and is left out") == 1
    assert "sk-secret" not in caplog.text


def test_a_cell_is_the_same_and_its_steps_are_there(small, tmp_path):
    pytest.importorskip("tensorboard")
    project = small.copy(tmp_path / "project")
    key = project.cell("omniopd", 1, "train").name
    name = next(name for name in project.locked() if name.endswith(f"@{key}"))
    before = project.files(name)
    project.edit(runtime__log_to="tensorboard")
    project.run("omniopd", "plan")
    project.run("dvc", "repro", "--force", "--single-item", project.address(name))
    assert project.files(name) == before
    lines = (project.cell("omniopd", 1, "train") / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["train/loss"] for line in lines]
    (folder,) = (project.folder / ".trackers/tensorboard").glob("*/*")
    assert folder.name == f"round 1 {key}"
    found = events(folder)["train/loss"]
    assert [step for step, _ in found] == list(range(len(losses)))
    assert [value for _, value in found] == pytest.approx(losses)
