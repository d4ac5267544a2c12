"""Edits of code in a project that ran, by the stages that DVC then runs; and what is accepted."""

import json
import re
import shutil

import pytest

from pipeline.code_digest import equal, history
from pipeline.runner.dag.accept import same_but_for_writer
from tests.runner.test_dag import AGAIN, groups, ledger

pytestmark = pytest.mark.usefixtures("warm")
MORE = "\n\ndef _nobody_calls_it():\n    return 1\n"


@pytest.fixture
def project(small, tmp_path):
    return small.copy(tmp_path / "project")


def edit(project, path, old, new):
    file = project.folder / path
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))


def bought(project):
    """What the ledger says, but for how often stored answers were read."""
    found = json.loads(ledger(project))
    return [line for line in json.dumps(found, indent=1).splitlines() if "reused" not in line]


def stages(project):
    """dvc.lock by stage, without when its cells ran."""
    return project.locked()


def test_edits_run_what_they_change_and_equal_bytes_are_accepted(project):
    locks = {path.name: path.read_text() for path in project.folder.glob("code/*.lock")}
    # a comment, another format, a new helper, in code that every stage loads
    edit(project, "pipeline/core/seeds.py", '"""A 63-bit seed', '"""One seed')
    with (project.folder / "pipeline/core/seeds.py").open("a") as file:
        file.write(MORE)
    assert project.repro() == []
    assert {p.name: p.read_text() for p in project.folder.glob("code/*.lock")} == locks
    # the same done otherwise: other code, and equal bytes
    before, paid = stages(project), bought(project)
    edit(project, "pipeline/method/objectives/sft.py", "correct=False)", "correct=not True)")
    edit(project, "stages/teach.py", "sorted(found.items())", "sorted(list(found.items()))")
    said = project.run("omniopd", "plan").stdout
    assert "train-sft: 1 cell reruns, for code: terms (pipeline/method/objectives/sft.py)" in said
    assert (
        "terms (pipeline/method/objectives/sft.py)" in project.run("omniopd", "why", "sft").stdout
    )
    said = project.run("omniopd", "verify-code").stdout
    assert re.search(r"train-sft, 1 cells, tried train-sft@\w+: equal bytes: 1 accepted", said)
    assert re.search(r"teach-local, 2 cells, tried teach\S+: equal bytes: 2 accepted", said)
    # plan compares the locks, and the page names the libraries of all of them
    assert groups(project.repro()) == {"plan": 1, "report": 1}
    after = stages(project)
    changed = {name for name in after if after[name] != before[name]}
    assert groups(changed) == {
        "plan": 1, "report": 1, "train-sft": 1, "teach": 1, "teach-solutions": 1
    }  # fmt: skip
    changed = {name for name in changed if groups([name]) != {"report": 1}}  # it holds times
    assert all(after[name]["outs"] == before[name]["outs"] for name in changed)
    assert bought(project) == paid
    assert not (project.folder / ".verify-code").exists()
    # other bytes are not accepted
    edit(project, "pipeline/method/objectives/sft.py", "Terms(signal_T,", "Terms(signal_T * 2,")
    said = project.run("omniopd", "verify-code").stdout
    tried = r"train-sft, 1 cells, tried train-sft@\w+: \S+ has other bytes; they rerun"
    assert re.search(tried, said)
    assert groups(project.repro()) == AGAIN | {"train-sft": 1, "evaluate": 1}


def test_a_plan_takes_over_the_cells_of_code_that_is_known_to_do_the_same(project):
    old = sorted(equal.BEFORE)[0]
    kept = project.folder / history.KEPT
    kept.mkdir(exist_ok=True)
    changed = 0
    for lock in project.folder.glob("code/*.lock"):
        text = lock.read_text()
        now = next((x for x in sorted(equal.NOW) if f"\n{x}\n" in text), None)
        if lock.stem == "report" or now is None:
            continue
        before = text.replace(f"\n{now}\n", f"\n{old}\n")
        (kept / f"{history.md5(before)}.lock").write_text(before)
        for path in (project.folder / "dvc.lock", *project.folder.glob("dag/*/*/dvc.lock")):
            said = path.read_text()
            changed += said.count(history.md5(text))
            path.write_text(said.replace(history.md5(text), history.md5(before)))
    assert changed > 10
    assert "rerun" not in project.run("omniopd", "plan").stdout
    assert project.repro() == []


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ('{"a": 1, "transformers_version": "5.20.2"}', True),
        ('{"a": 2, "transformers_version": "5.20.2"}', False),
        ('{"a": 1.0, "transformers_version": "5.20.2"}', False),
        ('{"a": 1, "b": 1, "transformers_version": "5.20.2"}', False),
        ('{"a": 1}', False),
        ("[1]", False),
        ("{", False),
    ],
)
def test_a_checkpoint_s_json_may_name_another_version_of_its_writer_and_nothing_else(other, same):
    one = b'{"a": 1, "transformers_version": "5.19.0"}'
    assert same_but_for_writer(one, other.encode()) is same


@pytest.mark.slow
def test_a_project_that_ran_on_files_of_code_is_accepted_whole(project):
    """Its dvc.lock as it was before there were locks: each cell with some files of code."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    for path in (project.folder / "dvc.lock", *project.folder.glob("dag/*/*/dvc.lock")):
        held = yaml.load(path)
        for stage in held["stages"].values():
            for dep in stage["deps"]:
                if dep["path"].startswith("code/"):
                    dep.update(path="stages/train.py", md5="0" * 32)
        yaml.dump(held, path)
    shutil.rmtree(project.folder / ".dvc/cache/runs")  # as after an upgrade, nothing is known there
    paid = bought(project)
    assert "when each file of code was a dependency" in project.run("omniopd", "plan").stdout
    said = project.run("omniopd", "verify-code").stdout
    assert "rerun" not in said
    assert groups(project.repro()) == {"report": 1}  # stage plan knows code by its locks
    assert bought(project) == paid
    for name, stage in stages(project).items():
        assert name == "plan" or history.dependency(stage)
