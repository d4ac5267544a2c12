"""Clones of a project whose every cell ran, on one machine: as those of a team."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks import finished
from pipeline.core import dvc_objects
from pipeline.plan import expand
from pipeline.runner import dvc_project
from pipeline.runner.dag import plan_files
from tests.project import MINIATURE

SETTINGS = Path(__file__).with_suffix(".gitconfig")  # who commits; folders of others are no matter
IGNORED = "/config.local\n/tmp\n/cache\n"  # of .dvc, as DVC has it


def git(folder: Path, *words: str) -> str:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": str(SETTINGS)}
    done = subprocess.run(
        ["git", *words], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout


def ran(folder: Path) -> None:
    """A project there whose every cell ran, in a commit."""
    finished.now(folder, YAML(typ="safe", pure=True).load(MINIATURE.read_text()), ran=True)
    (folder / "params.yaml").write_text(MINIATURE.read_text())
    (folder / ".dvc" / ".gitignore").write_text(IGNORED)
    with (folder / ".gitignore").open("a") as file:
        file.write("/bin/\n/outs/\n")
    commit(folder)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")


def clone(folder: Path, to: Path) -> Path:
    """A second user's, with nothing but what git carries."""
    git(folder, "clone", "-q", str(folder), str(to))
    (to / "extensions").mkdir(exist_ok=True)  # git carries no empty folder
    return to


def copied(folder: Path, to: Path) -> Path:
    """The same project with its own cache, somewhere else."""
    shutil.copytree(folder, to, symlinks=True)
    return to


def stale(folder: Path) -> set[str]:
    """Cells that DVC would not skip in this clone."""
    with contextlib.chdir(folder):
        return dvc_project.Project().stale(expand.upstream(plan_files.expanded()))


def objects(cache: Path) -> set[str]:
    """Every object of a cache or of a remote that is a folder."""
    return {path.parent.name + path.name for path in (cache / "files" / "md5").glob("??/*")}


def oid(folder: Path, path: str) -> str:
    """The object that dvc.lock names for a file: an out, or in one."""
    with contextlib.chdir(folder):
        known = dvc_objects.files(dvc_objects.configured(), dvc_objects.outs())
        return next(oid for one, oid, _ in known if one == path)


def place(cache: Path, oid: str) -> Path:
    return dvc_objects.place(cache / "files" / "md5", oid)
