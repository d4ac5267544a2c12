"""`omniopd push` and `omniopd pull`, through huggingface_hub against a stand-in hub on loopback."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from ruamel.yaml import YAML

from pipeline.commands.exports import hub
from pipeline.core.errors import UserError
from pipeline.plan.expand import GROUPS
from tests.commands.test_export import folder, source
from tests.hub_server import Hub
from tests.project import MINIATURE, ROOT

TOKEN = "hf_a-token-that-nobody-sees"
RESULT = {
    "arm": "omniopd", "seed": 0, "round": 1, "task": "arithmetic", "decoding": "sampled",
    "k": 4, "accuracy": 0.5, "low": 0.4, "high": 0.6, "diff": 0.1, "diff_low": -0.1,
    "diff_high": 0.3, "problems": 60,
}  # fmt: skip
__all__ = ["folder"]  # the fixture


@pytest.fixture
def project(folder):
    """The project of test_export with a plan to find it by, and a report."""
    arms = {"omniopd": {"seed-0": {"round-1": source(folder).cells}}}
    plan = {
        "cells": {group: {} for group in GROUPS} | source(folder).plan["cells"] | {"arms": arms}
    }
    with (folder / "plan.yaml").open("w") as file:
        YAML().dump(plan, file)
    (folder / "params.yaml").write_text(MINIATURE.read_text())
    report = folder / "data/report"
    report.mkdir()
    (report / "results.json").write_text(json.dumps([RESULT]))
    (report / "run.json").write_text(json.dumps({"cell": "creport"}))
    return folder


@pytest.fixture
def server():
    with Hub(TOKEN).running() as found:
        yield found


def omniopd(server, *words, token=TOKEN, **more):
    command = [sys.executable, "-c", "from pipeline.commands.app import main; main()", *words]
    own = {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": server.url, "HF_TOKEN": token}
    own["HF_HUB_DISABLE_XET"] = "1"  # the stand-in speaks LFS
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | own | more
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_a_pushed_checkpoint_has_a_card_and_comes_back_byte_for_byte(project, server, tmp_path):
    done = omniopd(server, "push", str(project), "--to", "hub:me/small")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{server.url}/me/small"
    repo = server.repos["model", "me/small"]
    assert repo["private"]
    data = front(repo["files"]["README.md"].decode())
    assert data["tags"] == ["omniopd"]
    (one,) = data["model-index"][0]["results"]
    (metric,) = one["metrics"]
    assert metric["value"] == 0.5
    assert metric["args"]["interval_95"] == [0.4, 0.6]
    done = omniopd(server, "pull", "hub:me/small", "--out", str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    trained = project / "data/train/ctrain/checkpoint"
    assert {p.name for p in (tmp_path / "back").iterdir()} == set(repo["files"])
    weights = "model.safetensors"
    assert (tmp_path / "back" / weights).read_bytes() == (trained / weights).read_bytes()
    assert TOKEN not in str(repo["files"])


def test_rollouts_become_a_dataset_with_a_card(project, server, tmp_path):
    words = ("push", str(project), "--to", "hub:me/texts", "--what", "rollouts", "--public")
    done = omniopd(server, *words)
    assert done.returncode == 0, done.stderr
    repo = server.repos["dataset", "me/texts"]
    assert not repo["private"]
    data = front(repo["files"]["README.md"].decode())
    assert data["configs"] == [{"config_name": "rollouts", "data_files": "rollouts.parquet"}]
    own = (project / "data/rollout/croll/rollouts.parquet").read_bytes()
    assert repo["files"]["rollouts.parquet"] == own
    words = ("pull", "hub:me/texts", "--what", "rollouts", "--out", str(tmp_path / "back"))
    done = omniopd(server, *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back/rollouts.parquet").read_bytes() == own


def test_a_repository_that_everyone_reads_is_pushed_to_only_when_told_so(project, server):
    words = ("push", str(project), "--to", "hub:me/texts", "--what", "rollouts")
    server.repos["dataset", "me/texts"] = {"private": False, "files": {}}
    done = omniopd(server, *words)
    assert done.returncode == 2
    assert "found a public repository, wanted --public" in done.stderr
    assert server.repos["dataset", "me/texts"]["files"] == {}
    assert omniopd(server, *words, "--public").returncode == 0


def test_a_table_of_several_rounds_is_not_pushed_as_one(project, server):
    plan = YAML(typ="safe").load((project / "plan.yaml").read_text())
    plan["cells"]["steps"] = {"croll": {"params": {"rounds": [1, 2], "stages": {}}}}
    with (project / "plan.yaml").open("w") as file:
        YAML().dump(plan, file)
    done = omniopd(server, "push", str(project), "--to", "hub:me/texts", "--what", "rollouts")
    assert done.returncode == 2
    assert "found a table of several rounds" in done.stderr
    assert server.repos == {}


def test_a_wrong_token_is_refused_by_name_and_not_shown(project, server):
    done = omniopd(server, "push", str(project), "--to", "hub:me/small", token="hf_wrong")
    assert done.returncode == 2
    assert "push to hub:me/small: the hub answered 401" in done.stderr
    assert "Set HF_TOKEN" in done.stderr
    assert "hf_wrong" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_that_speaks_lfs_alone_is_told_how(project, server):
    done = omniopd(server, "push", str(project), "--to", "hub:me/small", HF_HUB_DISABLE_XET="0")
    assert done.returncode == 2
    assert "Set HF_HUB_DISABLE_XET=1." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_repository_that_is_not_there_leaves_no_folder(server, tmp_path):
    done = omniopd(server, "pull", "hub:me/nothing", "--out", str(tmp_path / "back"))
    assert done.returncode == 2
    assert "pull of hub:me/nothing: the hub answered 404" in done.stderr
    assert not (tmp_path / "back").exists()


def test_a_hub_that_does_not_answer_is_told_in_one_sentence(project, tmp_path):
    with Hub(TOKEN).running() as server:
        pass
    for words in (
        ("pull", "hub:me/small", "--out", str(tmp_path / "back")),
        ("push", str(project), "--to", "hub:me/small"),
    ):
        done = omniopd(server, *words)
        assert done.returncode == 2
        assert "found no answer" in done.stderr
        assert "HF_ENDPOINT" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("name", ["me/small", "hub:small", "hub:me/a/b", "hub:", "hub:me/.."])
def test_what_names_no_repository_is_refused(name):
    with pytest.raises(UserError, match="wanted hub:USER/NAME"):
        hub.repository(name)
