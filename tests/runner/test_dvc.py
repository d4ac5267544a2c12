"""What this project relies on of DVC, beyond its commands: a version that differs fails here."""

import inspect
import shutil
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from pipeline.core import dvc_objects
from pipeline.runner.dag import lock_files
from tests.project import ROOT

DAG = """stages:
  made:
    cmd: mkdir -p folder; cp in out; cp in folder/a; cp in folder/b
    deps: [in]
    outs: [out, folder]
"""
NESTED = """stages:
  made:
    wdir: ../../..
    cmd: mkdir -p inner; cp in more; cp in inner/a; cp in inner/b
    deps: [in, out]
    outs: [more, inner]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with one stage in its folder and one that reads it below, both run."""
    folder = tmp_path_factory.mktemp("dvc") / "project"
    below = folder / "dag/a/seed-0"
    below.mkdir(parents=True)
    (folder / "in").write_text("input\n")
    (folder / "dvc.yaml").write_text(DAG)
    (below / "dvc.yaml").write_text(NESTED)
    dvc(folder, "init", "-q", "--no-scm")
    dvc(folder, "repro", "-q", "dag/a/seed-0/dvc.yaml:made")
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    shutil.copytree(made.parent, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy/project")
    return Path.cwd()


def dvc(folder, *words):
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_minor_version_is_the_one_that_is_tested():
    found = map(Requirement, requires("omniopd-pipeline") or ())
    (wanted,) = [one for one in found if one.name == "dvc"]
    minor = ".".join(version("dvc").split(".")[:2])
    pins = (ROOT / "pyproject.toml").read_text()
    assert f'"dvc>={minor},<' in pins
    assert version("dvc") in wanted.specifier


def test_nothing_of_dvc_is_replaced():
    """No module of ours assigns to one of DVC's."""
    for path in ROOT.glob("pipeline/**/*.py"):
        for line in path.read_text().splitlines():
            named = line.strip().startswith(("param.", "dvc.", "repo.", "Repo."))
            assert not (named and " = " in line), (path, line)


def test_a_lock_of_ours_is_read_as_dvc_writes_it(folder):
    (path, other) = (Path("dvc.lock"), Path("dag/a/seed-0/dvc.lock"))
    before = {one: YAML(typ="safe").load(one.read_text())["stages"] for one in (path, other)}
    entry = before[other]["made"]
    assert list(entry) == ["cmd", "deps", "outs"]
    assert [dep["path"] for dep in entry["deps"]] == ["in", "out"]
    assert set(entry["outs"][0]) == {"path", "hash", "md5", "size", "nfiles"}
    assert entry["deps"][0] == lock_files._described("in", "input\n")
    lock_files.write({path: {}, other: {}}, before)
    assert "up to date" in dvc(folder, "repro", "dag/a/seed-0/dvc.yaml:made")


def test_a_folder_is_listed_as_dvc_lists_it(folder):
    (out,) = [out for path, out in dvc_objects.outs().items() if path == "folder"]
    listed = dvc_objects.place(dvc_objects.cache(), out.oid)
    assert listed.read_bytes() == dvc_objects.listed(folder / "folder")
    gathered = lock_files._gathered(
        [{"path": f"folder/{n}", "md5": dvc_objects.md5(f"folder/{n}"), "size": 6} for n in "ba"],
        ["folder"],
        Path("elsewhere"),
    )
    assert gathered["folder"] == {
        "path": "folder", "hash": "md5", "md5": out.oid, "size": 12, "nfiles": 2,
    }  # fmt: skip
    assert dvc_objects.place(Path("elsewhere"), out.oid).read_bytes() == listed.read_bytes()


def test_an_entry_that_is_remembered_is_one_of_the_run_cache(folder):
    runs = Path(".dvc/cache/runs")
    known = {path.relative_to(runs): path for path in runs.rglob("*") if path.is_file()}
    texts = {name: YAML(typ="safe").load(path.read_text()) for name, path in known.items()}
    shutil.rmtree(runs)
    # only entries with a lock of code are taken: here the one dependency stands for it
    entries = [{**entry} for entry in texts.values()]
    for entry in entries:
        assert entry["deps"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock_files, "CODE", "")
        lock_files.remember(Path(".dvc/cache/files/md5"), entries)
    again = {path.relative_to(runs) for path in runs.rglob("*") if path.is_file()}
    assert again == set(known)
    for path in ("dvc.lock", "dag/a/seed-0/dvc.lock", "out"):
        Path(path).unlink()
    shutil.rmtree("inner")
    said = dvc(folder, "repro", "dag/a/seed-0/dvc.yaml:made")
    assert said.count("is cached - skipping run") == 2


def test_functions_that_are_called_take_what_they_are_given():
    from dvc.dvcfile import ProjectFile
    from dvc.repo import Repo
    from dvc.rwlock import rwlock
    from dvc.stage import Stage
    from dvc.stage.cache import StageCache

    def takes(function, *names):
        assert set(names) <= set(inspect.signature(function).parameters), function

    takes(rwlock, "tmp_dir", "fs", "cmd", "read", "write", "hardlink")
    takes(Stage.changed_deps, "allow_missing", "upstream")
    takes(Stage.changed_outs, "allow_missing")
    takes(Stage.remove_outs, "ignore_remove", "force")
    takes(ProjectFile.dump, "update_pipeline")
    takes(StageCache.restore, "stage")
    takes(StageCache.save, "stage")
    for name in ("index", "lock", "scm_context", "stage_cache", "cache", "tmp_dir"):
        assert hasattr(Repo, name) or name in inspect.getsource(Repo.__init__), name


def test_dvc_checkout_brings_back_what_is_gone_and_leaves_what_cannot_be(folder):
    Path("out").unlink()
    shutil.rmtree("inner")
    dvc(folder, "checkout", "--quiet", "--allow-missing")
    assert Path("out").read_text() == Path("inner/a").read_text() == "input\n"
    shutil.rmtree(".dvc/cache/files")
    Path("out").unlink()
    dvc(folder, "checkout", "--quiet", "--allow-missing")
    assert not Path("out").exists()
