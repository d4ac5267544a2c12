"""The DAG in small files: what `omniopd plan` writes, and entries of dvc.lock that move along.

In real DVC; stages are scripts that write a few bytes (benchmarks/finished.py).
"""

import contextlib
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from benchmarks import finished
from pipeline.core import dag_names
from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment
from pipeline.runner.dag import dag_files, lock_files, plan_files
from pipeline.stage import cells, dataflow
from tests.project import MINIATURE, ROOT, ran

ARMS = ["omniopd", "shuffled-scores", "sft"]


def params(arms=ARMS, **changes):
    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    values["experiment"] |= {"arms": list(arms)} | changes
    return values


class Toy:
    """A finished project whose params change."""

    def __init__(self, project):
        self.project, self.folder = project, project.folder

    def copy(self, folder):
        shutil.copytree(self.folder, folder, symlinks=True)
        other = object.__new__(finished.Project)
        other.folder, other.said = folder, ""
        return Toy(other)

    def plan(self, values):
        """As `omniopd plan`."""
        with contextlib.chdir(self.folder):
            finished._yaml(Path("params.yaml"), values)
            wanted = plan_files.write()
        self.project.writes(finished.written(wanted))
        return wanted

    def repro(self, *words):
        self.project.dvc("repro", *words)
        return Counter(name.partition("@")[0] for name in ran(self.project.said))

    def locked(self):
        with contextlib.chdir(self.folder):
            return lock_files.read()

    def forget(self):
        """Empty the run-cache."""
        shutil.rmtree(self.folder / ".dvc/cache/runs", ignore_errors=True)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three arms of which two share cells, all run."""
    folder = tmp_path_factory.mktemp("three") / "project"
    return Toy(finished.now(folder, params(), ran=True))


@pytest.fixture
def toy(three, tmp_path):
    return three.copy(tmp_path / "project")


AGAIN = {"plan": 1, "report": 1}


@pytest.mark.parametrize("dropped", ["omniopd", "shuffled-scores"])
def test_dropping_either_of_two_arms_that_share_cells_runs_no_cell(toy, dropped):
    """Also with an empty run-cache."""
    toy.forget()
    left = [arm for arm in ARMS if arm != dropped]
    toy.plan(params(left))
    assert not (toy.folder / "dag" / dropped).exists()
    assert toy.repro() == AGAIN


def test_an_arm_that_comes_back_is_restored_and_another_order_moves_nothing(toy):
    before = toy.locked()
    toy.plan(params(reversed(ARMS)))
    assert toy.locked() == before
    toy.plan(params(["omniopd"]))
    assert toy.repro() == AGAIN
    rollout = next(x for x in lock_files.entries(toy.locked()) if x.startswith("rollout"))
    moved = toy.locked()[Path("dag/omniopd/seed-0/dvc.lock")]
    assert dag_names.stage_name(rollout) in moved  # nobody shares it now
    toy.plan(params())
    assert toy.repro() == AGAIN
    assert toy.project.said.count("is cached - skipping run") == 7  # of the other arms


def files(folder, cell, out):
    """An out as it was when each file of a cell was one."""
    if cell.startswith("report") or out["path"].endswith("checkpoint") or "nfiles" not in out:
        return [out]
    listing = folder / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]
    found = json.loads(listing.read_text())
    listing.unlink()
    size = out["size"] // len(found)  # of no importance
    return [
        {"path": f"{out['path']}/{x['relpath']}", "hash": "md5", "md5": x["md5"], "size": size}
        for x in found
    ]


def without_sizes(entries):
    return {
        name: {k: [{**x, "size": 0} for x in v] if k != "cmd" else v for k, v in entry.items()}
        for name, entry in entries.items()
    }


def as_before(toy):
    """Bring the project to the layout of one dvc.yaml and one dvc.lock."""
    stages = {}
    for own in toy.locked().values():
        for name, entry in own.items():
            cell = dag_names.cell_name(name)
            deps = [d for d in entry["deps"] if not d["path"].startswith("dag/")]
            name = "report@c58955345" if cell == dag_names.REPORT else cell
            outs = [one for out in entry["outs"] for one in files(toy.folder, name, out)]
            stages[name] = entry | {"cmd": f"{entry['cmd']} --out x", "deps": deps, "outs": outs}
    shutil.rmtree(toy.folder / "dag")
    (toy.folder / "plan.yaml").write_text(dag_files.HEADER)
    with (toy.folder / "dvc.lock").open("w") as file:
        YAML(typ="safe").dump({"schema": "2.0", "stages": stages}, file)


def test_a_project_of_one_file_is_brought_here_and_no_cell_runs(toy):
    after = lock_files.entries(toy.locked())
    as_before(toy)
    toy.forget()
    toy.plan(params())
    assert not (toy.folder / "plan.yaml").exists()
    assert toy.repro() == {"plan": 1}
    assert without_sizes(lock_files.entries(toy.locked())) == without_sizes(after)
    # DVC finds moved cells in its run-cache, too
    for lock in toy.folder.glob("dag/*/*/dvc.lock"):
        lock.unlink()
    shutil.rmtree(toy.folder / "data" / "train")
    assert toy.repro() == {}
    assert toy.project.said.count("is cached - skipping run") == len(after) - 2


def test_an_entry_with_another_command_is_carried_over_and_no_cell_runs(toy):
    after, old = toy.locked(), "python -m stages."
    for path, own in after.items():
        path = toy.folder / path
        path.write_text(path.read_text().replace("omniopd stage ", old))
        assert path.read_text().count(old) == len(own) - ("plan" in own)
    toy.forget()
    toy.plan(params())
    assert toy.locked() == after
    assert toy.repro() == {}
    assert "is cached" not in toy.project.said


def test_what_moves_takes_its_entry_to_the_letter(tmp_path):
    entry = {
        "cmd": "old",
        "deps": [{"path": "code/a.lock", "md5": "1"}, {"path": "data/x", "md5": "2"}],
        "outs": [{"path": "data/y", "md5": "3"}],
    }
    stage = {"cmd": "new", "deps": ["dag/f.yaml", "code/a.lock", "data/x"], "outs": ["data/y"]}
    found = lock_files.carried(entry, stage, {"dag/f.yaml": "text"}, tmp_path)
    assert found["cmd"] == "new"
    assert found["outs"] == entry["outs"]
    assert found["deps"][:1] + found["deps"][2:] == entry["deps"]
    assert found["deps"][1] == {
        "path": "dag/f.yaml",
        "hash": "md5",
        "md5": "1cb251ec0d568de6a929b520c4aed8d1",
        "size": 4,
    }
    assert lock_files.carried(entry, stage, {}, tmp_path) is None
    known = {"dag/f.yaml": "text"}
    assert lock_files.carried(entry, stage | {"outs": ["data/z"]}, known, tmp_path) is None
    other = stage | {"deps": ["dag/f.yaml", "code/b.lock", "data/x"]}
    left = lock_files.carried(entry, other, known, tmp_path)
    assert [dep["path"] for dep in left["deps"]] == ["dag/f.yaml", "data/x"]


def test_dvc_sees_exactly_the_cells_of_the_plan(three):
    three.project.dvc("stage", "list", "--all", "--name-only")
    seen = {dag_names.cell_of(name) for name in three.project.said.split()}
    assert seen == {"plan", *expand.upstream(expand.expand(experiment.of(params(), "")))}


def test_stages_are_literal_and_lie_with_their_arm_and_seed():
    found = expand.expand(experiment.of(params(seeds=[0, 1]), ""))
    folders = dag_files.folders(found)
    arms = found["cells"]["arms"]
    one, other = (arms[arm]["seed-1"]["round-1"] for arm in ("omniopd", "shuffled-scores"))
    names = {name.partition("@")[2]: name for name in folders}
    assert one["rollout"] == other["rollout"]
    assert folders[names[one["rollout"]]] == Path("dag/shared/seed-1")
    assert folders[names[one["train"]]] == Path("dag/omniopd/seed-1")
    assert folders[names[other["train"]]] == Path("dag/shuffled-scores/seed-1")
    assert folders[next(x for x in folders if x.startswith("prepare"))] == Path(
        "dag/shared/all-seeds"
    )
    texts = dict(dag_files.texts(found))
    assert not any(
        "${" in text or "foreach" in text or "params.yaml:" in text for text in texts.values()
    )
    stages = YAML(typ="safe").load(texts[Path("dag/omniopd/seed-1/dvc.yaml")])["stages"]
    stage = stages[f"train-{one['train']}"]
    assert stage["wdir"] == "../../.."
    assert stage["cmd"] == f"omniopd stage train --cell {one['train']}"
    assert stage["deps"][:2] == [
        f"dag/cells/train/{one['train']}.yaml",
        "code/train-omniopd.lock",
    ]
    content = YAML(typ="safe").load(texts[Path(stage["deps"][0])])
    assert content["params"]["lr"] == 0.001
    assert content["deps"] == stage["deps"][2:]


def test_every_cell_waits_for_the_check_of_the_plan():
    for path in [
        MINIATURE,
        ROOT / "params.yaml",
        *(ROOT / "pipeline/commands/profiles").glob("*.yaml"),
    ]:
        reads = expand.upstream(found := expand.expand(experiment.load(path)))
        checked = set()
        for name in reads:  # in dependency order
            group, _, key = name.partition("@")
            own = found["cells"][group][key]
            deps = (
                [] if group == "report" else dag_files.stage(found, Path("dag/a/b"), name)["deps"]
            )
            if str(dag_files.OK) in deps or reads[name] & checked:
                checked.add(name)
            assert own["code"]
        assert checked == set(reads)


def test_what_a_stage_takes_is_what_its_cells_are_handed():
    """A stage names its inputs in `cells.arguments`; where they lie stands in dataflow."""
    taken = {one.argument for one in dataflow.INPUTS.values()} - {"rows", "base", "controlled"}
    taken |= {"controlled"}
    named = set()
    for path in (ROOT / "stages").glob("*.py"):
        text = path.read_text()
        for found in re.findall(
            r'"(\w+)\??"', "".join(re.findall(r"inputs = .*|arguments\(.*", text))
        ):
            named.add(found)
    assert named - set(dataflow.WRITES) - {"report"} <= {*taken, "scores"}
    assert set(dataflow.WRITES) == {group.partition("-")[0] for group in expand.GROUPS} - {"report"}


def test_the_dvc_yaml_by_hand_is_short_and_dvc_lock_is_at_most_35_lines_a_cell():
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) < 100
    locks = [*ROOT.glob("dag/*/*/dvc.lock"), ROOT / "dvc.lock"]
    lines = sum(len(path.read_text().splitlines()) for path in locks)
    with contextlib.chdir(ROOT):
        assert lines / len(expand.upstream(plan_files.check())) <= 35


def test_a_damaged_lock_is_named_by_its_path(toy):
    path = next(iter(toy.folder.glob("dag/*/*/dvc.lock")))
    path.write_text("<<<<<<< HEAD\n" + path.read_text())
    with pytest.raises(UserError, match=f"{path.relative_to(toy.folder)}, line 1: found '<<<<<<<"):
        toy.plan(params())


def test_an_arm_named_as_the_folder_of_shared_cells_is_refused():
    values = params()
    values["arms"]["shared"] = {}
    values["experiment"]["arms"] = ["omniopd", "shared"]
    with pytest.raises(UserError, match="arms: found 'shared'"):
        experiment.of(values, "here")


def test_git_has_what_is_written(three):
    done = subprocess.run(
        ["git", "check-ignore", "dag/omniopd/seed-0/dvc.yaml", "dag/report.yaml"],
        cwd=three.folder,
        capture_output=True,
    )
    assert done.stdout == b""


@pytest.mark.parametrize(
    "path", [MINIATURE, ROOT / "params.yaml", ROOT / "pipeline/commands/profiles/study.yaml"]
)
def test_a_cell_s_file_says_what_it_is_named_after(path):
    found = expand.expand(experiment.load(path))
    for place, text in dag_files.texts(found):
        if place.name not in (dag_names.DVC, "report.yaml"):
            content = YAML(typ="safe", pure=len(text) < 2000).load(text)
            group = content.pop("group")
            own = {name: v for name, v in content.items() if name not in cells.DERIVED}
            assert cells.name_of(group, own) == place.stem


def test_a_cell_whose_file_was_edited_by_hand_is_refused(three, tmp_path, monkeypatch):
    folder = three.copy(tmp_path / "project").folder
    monkeypatch.chdir(folder)
    path = next(iter(folder.glob("dag/*/*/c*.yaml")))
    group = YAML(typ="safe").load(path.read_text())["group"]
    cells.check_code(dataflow.stage(group), path.stem)
    path.write_text(path.read_text().replace("seed: ", "seed: 1"))
    with pytest.raises(UserError, match="than those that it is named after"):
        cells.check_code(dataflow.stage(group), path.stem)
