"""`omniopd exp run` plans before DVC reads the graph; plain `dvc exp run -S` says so."""

import csv
import json
import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from benchmarks import finished
from pipeline.commands.exp import exp_run
from pipeline.config import yaml_edit
from pipeline.core import git as git_program
from pipeline.core.errors import UserError
from pipeline.runner import repro
from pipeline.runner.dag import plan_files
from tests.project import MINIATURE, ROOT, Project, ran

WHO = ("-c", "user.name=a", "-c", "user.email=a@b")


def git(folder, *words):
    done = subprocess.run(["git", *WHO, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(folder):
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A finished project in a commit; its params.yaml is the miniature, to the letter."""
    folder = tmp_path / "project"
    finished.now(folder, YAML(typ="safe", pure=True).load(MINIATURE.read_text()), ran=True)
    (folder / "params.yaml").write_text(MINIATURE.read_text())
    commit(folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def asked(monkeypatch):
    """What DVC was asked to run, and what git had of the plan then."""
    found = []

    def run(*words):
        found.append((words, git(Path.cwd(), "diff", "--cached", "--name-only")))
        return 1.0

    monkeypatch.setattr(repro, "repro", run)
    return found


def test_values_are_set_and_the_layout_of_params_yaml_stays(project):
    before = Path("params.yaml").read_text()
    text = exp_run.overridden(["train.beta=0.2", "experiment.seeds=[0,1]", "teach.teacher=itself"])
    changed = [
        (a.strip(), b.strip())
        for a, b in zip(before.splitlines(), text.splitlines(), strict=True)
        if a != b
    ]
    assert ("beta: 0.1", "beta: 0.2") in changed
    assert ("seeds: [0]", "seeds: [0, 1]") in changed
    assert len(changed) == 3


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", MINIATURE, *(ROOT / "profiles").glob("*.yaml")]
)
def test_equal_values_leave_every_params_file_as_it_is(path):
    text = path.read_text()
    assert yaml_edit.edited(text, YAML(typ="safe", pure=True).load(text)) == text


def test_only_what_stands_on_a_line_of_its_own_can_be_replaced():
    assert yaml_edit.edited("a: 1 # why\nb: {c: x}\n", {"a": None, "b": {"c": [1]}}) == (
        "a: null # why\nb: {c: [1]}\n"
    )
    assert yaml_edit.edited("a: 1\n", {"a": True}) == "a: true\n"  # which Python calls equal
    assert yaml_edit.edited("a: 1\n", {"a": 1, "b": 2}) is None
    assert yaml_edit.edited("a:\n- 1\n", {"a": 2}) is None


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["train.betta=1"], "Could not override 'train.betta'"),
        (["train.beta"], "wanted KEY=VALUE"),
        (["train.beta=high"], "train.beta: found 'high'"),
        (["train.beta=0.1,0.2"], "found several values, wanted one"),
        (["train.beta=0.2", "experiment.arms=[nobody]"], "'nobody' is not defined"),
    ],
)
def test_a_value_that_cannot_be_set_changes_nothing(project, asked, sets, said):
    with pytest.raises(UserError, match=re.escape(said)):
        exp_run.run(sets, None, [])
    assert git(project, "status", "--porcelain") == ""
    assert asked == []


def test_dvc_runs_when_the_plan_of_the_new_values_is_known_to_git(project, asked):
    said = exp_run.run(["train.beta=0.2"], "mine", ["-m", "why"])
    ((words, staged),) = asked
    assert words == ("exp", "run", "--name", "mine", "-m", "why")
    new = [x for x in staged.split() if re.fullmatch(r"dag/cells/train/c\w+\.yaml", x)]
    assert new
    assert "params.yaml" in staged.split()
    plan_files.check()  # raises where dag/ is not what params.yaml means
    assert exp_run.BACK in said


def test_what_the_plan_refuses_puts_params_yaml_back(project, asked, monkeypatch):
    def refuse(**_):
        raise UserError("no key of the provider")

    monkeypatch.setattr(plan_files, "write", refuse)
    with pytest.raises(UserError, match="no key"):
        exp_run.run(["train.beta=0.2"], None, [])
    assert Path("params.yaml").read_text() == MINIATURE.read_text()
    assert asked == []


def test_a_name_that_is_taken_and_a_folder_without_a_commit_are_told_first(project, asked):
    head = git(project, "rev-parse", "HEAD").strip()
    git(project, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/mine", head)
    for name, said in (("mine", "dvc exp remove mine"), ("a b~", "name that git does not take")):
        with pytest.raises(UserError, match=said):
            exp_run.run(["train.beta=0.2"], name, [])
    for flag in ("--queue", "--temp", "--run-all"):
        with pytest.raises(UserError, match=flag):
            exp_run.run(["train.beta=0.2"], None, [flag])
    git(project, "update-ref", "-d", "HEAD")
    with pytest.raises(UserError, match="found no commit"):
        exp_run.run(["train.beta=0.2"], None, [])
    assert Path("params.yaml").read_text() == MINIATURE.read_text()
    assert asked == []


def test_a_run_that_fails_or_is_killed_leaves_head_on_its_branch_and_says_how_to_go_back(
    project, monkeypatch
):
    branch = git(project, "symbolic-ref", "HEAD")

    def detach(*_):
        git(project, "checkout", "-q", "--detach")
        raise UserError("stopped.")

    monkeypatch.setattr(repro, "repro", detach)
    with pytest.raises(UserError, match=r"stopped\. params.yaml and dag/ are this experiment's"):
        exp_run.run(["train.beta=0.2"], None, [])
    assert git(project, "symbolic-ref", "HEAD") == branch


def test_plain_exp_run_of_dvc_is_told_the_command_that_plans_first(project, monkeypatch):
    path = Path("params.yaml")
    monkeypatch.setenv("DVC_EXP_NAME", "honey-mela")
    monkeypatch.setenv("DVC_ROOT", str(project))
    plan_files.check()
    path.write_text(MINIATURE.read_text().replace("beta: 0.1", "beta: 0.2"))
    both = r"`git checkout HEAD -- params.yaml`.*`omniopd exp run -S train.beta=0.2`"
    with pytest.raises(UserError, match=both):
        plan_files.check()
    monkeypatch.setenv("DVC_ROOT", "/elsewhere")  # in a copy, as with --temp
    with pytest.raises(UserError, match=r"new values. Run `omniopd exp run -S train.beta=0.2`"):
        plan_files.check()
    monkeypatch.setenv("DVC_ROOT", str(project))
    plan_files.write()  # edits that no commit has
    path.write_text(path.read_text().replace("beta: 0.2", "beta: 0.3"))
    with pytest.raises(UserError, match="take back what -S changed"):
        plan_files.check()


@pytest.mark.slow
def test_an_experiment_of_its_own_from_start_to_end(tmp_path):
    project = Project(tmp_path / "exp")
    with (project.folder / ".gitignore").open("a") as file:
        file.write(".loaded/\njudgments.sqlite*\n")
    project.repro()
    commit(project.folder)
    status = git(project.folder, "status", "--porcelain")
    before, locked = (project.folder / "params.yaml").read_text(), project.locked()

    plain = project.run("dvc", "exp", "run", "-S", "train.beta=0.2", check=False)
    assert plain.returncode != 0
    assert "`git checkout HEAD -- params.yaml`" in plain.stderr
    assert "`omniopd exp run -S train.beta=0.2`" in plain.stderr
    assert ran(plain.stdout) == ["plan"]
    git(project.folder, "checkout", "HEAD", "--", "params.yaml")
    assert git(project.folder, "status", "--porcelain") == status

    words = ("-S", "train.beta=0.2", "-S", "train.epochs=2", "--name", "mine")
    done = project.run("omniopd", "exp", "run", *words)
    groups = {name.partition("@")[0] for name in ran(done.stdout)}
    assert groups == {"plan", "train", "evaluate", "report"}
    ref = git(project.folder, "for-each-ref", "refs/exps", "--format=%(refname)").split()
    (ref,) = [one for one in ref if one.endswith("/mine")]
    files = git(project.folder, "ls-tree", "-r", "--name-only", ref).split()
    planned = {str(p.relative_to(project.folder)) for p in project.folder.glob("dag/*/*/*")}
    assert planned == {name for name in files if name.count("/") == 3 and name.startswith("dag/")}

    shown = project.run("omniopd", "exp", "show", "--csv").stdout
    rows = list(csv.DictReader(shown.splitlines()))
    assert len(rows[0]) < 40
    (mine,) = [row for row in rows if row["Experiment"] == "mine"]
    assert (mine["train.beta"], mine["train.epochs"]) == ("0.2", "2")
    own = json.loads((project.folder / "data/report/metrics/omniopd.json").read_text())
    assert float(mine["data/report/metrics/omniopd.json:accuracy"]) == pytest.approx(
        own["accuracy"], rel=1e-4
    )

    assert exp_run.BACK == "git checkout HEAD -- params.yaml && omniopd repro"
    git(project.folder, "checkout", "HEAD", "--", "params.yaml")
    assert project.repro() == []  # all of it is in DVC's cache
    assert (project.folder / "params.yaml").read_text() == before
    assert project.locked() == locked
    left = git(project.folder, "status", "--porcelain").split()[1::2]
    assert {Path(path).name for path in left} <= {"dvc.lock"}  # entries in another order


def test_what_git_add_took_of_params_yaml_goes_back(project):
    before = Path("params.yaml").read_text()
    Path("params.yaml").write_text(before + "# other\n")
    git(project, "add", "params.yaml")
    back = exp_run.BACK.partition(" && ")[0].split()
    subprocess.run(back, check=True)
    assert Path("params.yaml").read_text() == before


def test_without_git_the_remedy_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_program.asked("status") == ""
    with pytest.raises(UserError, match="git: found no such program"):
        git_program.said("status")
