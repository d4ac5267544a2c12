"""`omniopd sweep` writes one block of params.yaml, runs it, and goes on where it was stopped."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from benchmarks import finished
from pipeline.commands.sweep import planned
from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment
from pipeline.runner import flow
from pipeline.runner.dag import plan_files
from tests.project import MINIATURE

NORM = "max_grad_norm"
WORDS = ["score.metric=exact,edit", "train.lr=1e-3,3e-3"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A finished project; its params.yaml is the miniature, to the letter."""
    folder = tmp_path / "project"
    finished.now(folder, YAML(typ="safe", pure=True).load(MINIATURE.read_text()), ran=True)
    (folder / "params.yaml").write_text(MINIATURE.read_text())
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JUDGMENTS_URL", f"sqlite:///{folder / 'judgments.sqlite'}")
    return folder


@pytest.fixture
def flows(monkeypatch):
    found = []
    monkeypatch.setattr(flow, "run", found.append)
    return found


def test_it_says_what_it_would_be_and_adds_lines_alone(project, flows):
    before = Path("params.yaml").read_text()
    found = planned.plan(WORDS, 2, None, None)
    assert Path("params.yaml").read_text() == before
    assert re.search(r"^exact-lr-3e-3 +exact +0.003 +\d+ +\d+ +\d+$", found.said, re.M)
    assert "4 points of 2 arms, 2 seeds: 6 arms more" in found.said
    one = planned.plan(["train.lr=1e-4"], None, None, ["omniopd"]).said
    assert "1 point of 1 arm, 1 seed: 1 arm more" in one
    planned.run(found, 3)
    assert flows == [3]
    lines = Path("params.yaml").read_text().splitlines()
    assert [x for x in before.splitlines() if x not in lines] == ["  seeds: [0]"]
    plan_files.check()  # raises where dag/ is not what params.yaml means
    told = re.search(r"Their cells are (\d+) .* would have (\d+); the plan has (\d+)", found.said)
    cells, apart, plan = map(int, told.groups())
    assert plan == len(expand.upstream(plan_files.expanded())) == cells + 1  # and the report
    assert cells < apart
    again = planned.plan(WORDS, 2, None, None)
    assert again.text == Path("params.yaml").read_text()


def test_a_key_is_taken_under_its_old_name_too(project, flows, caplog):
    one, other = (planned.plan([f"train.{key}=0.5"], None, None, None) for key in ("clip", NORM))
    assert one == other
    assert f"{NORM}: [0.5]" in one.text
    assert f"train.clip is train.{NORM} now" in caplog.text
    planned.run(one, 1)
    assert planned.plan(["train.clip=0.5"], None, None, None).text == one.text


def test_a_second_sweep_stands_beside_the_first_and_one_name_means_one_thing(project, flows):
    planned.run(planned.plan(WORDS, None, "first", ["omniopd"]), 1)
    planned.run(planned.plan(["train.beta=0.2,0.3"], None, None, ["omniopd"]), 1)
    file = experiment.load()
    assert set(file.sweep) == {"first", "beta"}
    assert {"omniopd-beta-0p2", "omniopd-exact-lr-3e-3"} <= set(file.experiment.arms)
    with pytest.raises(UserError, match="sweep first: found one of that name"):
        planned.plan(["train.beta=0.2,0.3"], None, "first", ["omniopd"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.betta=1,2"], "Is it beta?"),
        (["train.lr=high,1"], "train.lr: found 'high'"),
        (["train.lr"], "wanted KEY=VALUE,VALUE"),
        (["train.lr=interval(0,1)"], "Can only enumerate"),
        (["~train.lr"], "taken away"),
        (["train.lr=0.1", "train.lr=0.2"], "found a key twice"),
        (["train.lr=1e-3"], "found no arm that it changes"),
        (["evaluate.samples=1,2"], "omniopd exp run -S"),
    ],
)
def test_what_cannot_be_swept_changes_nothing(project, flows, words, said):
    with pytest.raises(UserError, match=re.escape(said)):
        planned.run(planned.plan(words, None, None, None), 1)
    assert Path("params.yaml").read_text() == MINIATURE.read_text()
    assert flows == []


def test_a_layout_without_a_line_for_it_is_told_and_left_alone(project, flows):
    text = MINIATURE.read_text() + "sweep: {}\n"
    Path("params.yaml").write_text(text)
    with pytest.raises(UserError, match="by hand"):
        planned.plan(WORDS, None, None, None)
    assert Path("params.yaml").read_text() == text


def test_what_was_stopped_goes_on_and_equal_cells_run_once(swept):
    first, second = swept.ran
    assert first
    assert [name for name in first if name in second] == first[-1:]  # the one that was stopped
    cells = set(expand.upstream(swept.plan()))
    assert len(second) == len(set(second))
    assert {*first, *second} <= {*cells, "plan"}
    arms = swept.plan()["cells"]["arms"]
    assert (
        arms["omniopd-exact-lr-3e-3"]["seed-0"]["round-1"]["teach"]
        == (arms["omniopd"]["seed-0"]["round-1"]["teach"])
    )
    assert "up to date" in swept.run("dvc", "repro").stdout
    rows = json.loads((swept.folder / "data/report/pooled.json").read_text())
    assert {row["arm"] for row in rows} >= {"omniopd-exact-lr-3e-3", "sft-exact-lr-3e-3"}
