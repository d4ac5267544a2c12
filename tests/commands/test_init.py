"""`omniopd init`: where it makes a project, what it refuses, and that nothing is left half made."""

import subprocess
from pathlib import Path

import pytest

from pipeline.commands import new_project
from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment
from pipeline.runner.dag import plan_files
from tests.project import BIN, ROOT

MADE = {
    *(".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "README.md"),
    *("dvc.yaml", "extensions/README.md", "params.yaml"),
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Nothing above the folder is a repository or the user's own configuration."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def git(folder, *words):
    found = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(found, cwd=folder, check=True, capture_output=True, text=True).stdout


def files(folder: Path):
    """Every file but those of git, and DVC's own temporary ones."""
    found = {x.relative_to(folder).as_posix() for x in folder.rglob("*") if x.is_file()}
    return {x for x in found if not x.startswith(".git/") and ".dvc/tmp/" not in x}


def ends(folder, words, said):
    """`omniopd` ends with the status of bad input and this in its message."""
    command = [str(BIN / "omniopd"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    return done.stderr


def test_a_new_folder_becomes_a_repository_with_a_project(tmp_path):
    said = new_project.make(Path("some/where"), "default")
    assert (
        said
        == "some/where: a project with profile default. Next: `cd some/where && omniopd repro`."
    )
    folder = tmp_path / "some/where"
    assert files(folder) == MADE
    assert (folder / ".git").is_dir()
    assert not (tmp_path / "some/.git").exists()
    assert (folder / ".dvc/config").read_text() == (ROOT / ".dvc/config").read_text()
    assert len((folder / "README.md").read_text().splitlines()) <= 14
    staged = git(folder, "status", "--short").splitlines()
    assert "A  .dvc/config" in staged  # by DVC, with what was written into it since


def test_the_project_has_the_plan_of_its_profile_and_the_dvc_yaml_of_the_repository(
    tmp_path, monkeypatch
):
    new_project.make(Path("p"), "study")
    monkeypatch.chdir("p")
    assert (
        Path("params.yaml").read_bytes()
        == (ROOT / "pipeline/commands/profiles/study.yaml").read_bytes()
    )
    assert Path("dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    text = Path("extensions/README.md").read_bytes()
    assert text == (ROOT / "extensions/README.md").read_bytes()
    wanted = plan_files.write()
    assert expand.upstream(wanted) == expand.upstream(expand.expand(experiment.load()))
    names = set(git(".", "status", "--short", "--untracked-files=all", "--", "data").splitlines())
    assert names == set()  # what stages write is none of git's


def test_the_default_profile_is_the_repositorys_own_params():
    default = ROOT / "pipeline/commands/profiles/default.yaml"
    assert default.read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_at_the_root_of_a_repository_what_is_there_stays(tmp_path):
    folder = tmp_path / "r"
    folder.mkdir()
    git(folder, "init", "-q")
    kept = {"README.md": "mine\n", ".gitignore": "*.log\n.venv/", "notes/x.txt": "x"}
    for name, text in kept.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "x")
    new_project.make(folder, "default")
    assert files(folder) == MADE | {"notes/x.txt"}
    assert (folder / "README.md").read_text() == "mine\n"
    lines = (folder / ".gitignore").read_text().splitlines()
    assert lines[:2] == ["*.log", ".venv/"]
    assert lines.count(".venv/") == 1
    assert "/data/train/" in lines
    done = subprocess.run(
        plan_files.dvc("root"), cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "."


def test_inside_another_repository_dvc_has_a_folder_of_its_own(tmp_path):
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    new_project.make(outer / "in", "default")
    assert not (outer / "in/.git").exists()
    assert files(outer) == {f"in/{name}" for name in MADE}
    done = subprocess.run(
        plan_files.dvc("stage", "list", "--name-only"),
        cwd=outer / "in",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["plan", "report"])


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml", "dag/x", "code/a.py", "data/train/x"])
def test_what_would_be_overwritten_is_refused_by_its_name(tmp_path, name):
    file = tmp_path / "p" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    there = name if name.startswith("data") or "/" not in name else name.partition("/")[0]
    said = ends(tmp_path, ["init", "p"], there.removesuffix("/x"))
    assert "Name another folder, or move" in said
    assert files(tmp_path / "p") == {name}
    assert file.read_text() == "mine"
    assert not (tmp_path / "p/.git").exists()


def test_a_second_time_a_file_and_a_profile_that_is_none_are_refused(tmp_path):
    new_project.make(Path("p"), "default")
    before = files(tmp_path / "p")
    ends(tmp_path, ["init", "p"], "found .dvc, dvc.yaml, extensions, params.yaml, wanted none")
    assert files(tmp_path / "p") == before
    (tmp_path / "f").write_text("")
    ends(tmp_path, ["init", "f"], "f: found a file, wanted a folder")
    ends(tmp_path, ["init", "x/y", "--profile", "nope"], "no 'nope'; there are ['default'")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("step", [["git", "init"], ["dvc", "init"], ["git", "add"]])
def test_what_fails_or_is_interrupted_leaves_everything_as_it_was(tmp_path, monkeypatch, step):
    outer = tmp_path / "outer"
    outer.mkdir()
    if step[0] == "dvc" or step[1] == "add":
        git(outer, "init", "-q")
        (outer / ".gitignore").write_text("*.log")
    before, run = files(outer), new_project._run

    def fails(command, folder):
        if step[0] in command and step[1] in command:
            raise KeyboardInterrupt
        run(command, folder)

    monkeypatch.setattr(new_project, "_run", fails)
    for folder in (outer, outer / "a/b"):
        with pytest.raises(KeyboardInterrupt):
            new_project.make(folder, "default")
        assert files(outer) == before
        assert not (outer / "a").exists()
    if before:
        assert git(outer, "status", "--short") == "?? .gitignore\n"
        assert (outer / ".gitignore").read_text() == "*.log"


def test_a_program_that_fails_is_told_in_its_own_words(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_files, "dvc", lambda *words: ["git", "nosuch", "init"])
    with pytest.raises(UserError, match="'nosuch' is not a git command"):
        new_project.make(Path("p"), "default")
    assert not (tmp_path / "p").exists()
