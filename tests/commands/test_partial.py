"""`omniopd report --partial`: of the arms and seeds that are through, beside what runs."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.commands.status import partial
from pipeline.core.errors import UserError
from pipeline.core.yaml_files import load


@pytest.fixture
def project(small, tmp_path, monkeypatch):
    """A project of which sft has no evaluation yet."""
    found = small.copy(tmp_path / "project")
    shutil.rmtree(found.cell("sft", 1, "evaluate"))
    return found


def test_what_is_through_is_reported_and_what_is_not_is_named(project):
    def rest():
        files = (p for p in project.folder.rglob("*") if p.is_file() and ".dvc" not in p.parts)
        kept = (p for p in files if partial.OUT.name not in p.parts)
        own = (p for p in kept if not {".code", "__pycache__"} & {*p.parts})
        return {p: p.stat().st_mtime_ns for p in own}

    before = rest()
    done = project.run("omniopd", "report", "--partial")
    assert done.stdout.splitlines()[-1] == "page: data/partial/index.html"
    out = project.folder / partial.OUT
    note = "Partial: these are not through and left out: sft seed-0."
    assert note in (out / "results.md").read_text()
    assert note in (out / "index.html").read_text()
    rows = json.loads((out / "results.json").read_text())
    whole = json.loads((project.folder / "data/report/results.json").read_text())
    assert rows == [row for row in whole if row["arm"] != "sft"]
    assert {row["arm"] for row in rows} == {"base", "omniopd", "shuffled-scores"}
    assert rest() == before  # nothing of the plan, of DVC's or of the whole report


def test_where_nothing_is_through_it_says_what_is_missing(project):
    shutil.rmtree(project.folder / "data/score")
    shutil.rmtree(project.folder / "data/arms", ignore_errors=True)
    done = project.run("omniopd", "report", "--partial", check=False)
    assert done.returncode == 2
    assert "found no arm of which a seed is through" in done.stderr
    assert "omniopd seed-0, sft seed-0" in done.stderr
    assert not (project.folder / partial.OUT).exists()


def test_seeds_are_through_each_for_itself(small, monkeypatch):
    monkeypatch.chdir(small.folder)
    arms = load(Path("dag/report.yaml"))["params"]["arms"]
    own = arms["omniopd"]["seed-0"]
    lost = {"round-1": own["round-1"] | {"train": "c00000000"}}
    kept, out = partial.through({"base": arms["base"], "omniopd": {"seed-0": own, "seed-1": lost}})
    assert kept == {"base": arms["base"], "omniopd": {"seed-0": own}}
    assert out == ["omniopd seed-1"]


def test_without_a_plan_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"dag/report.yaml: not there.*omniopd plan"):
        partial.draw()
