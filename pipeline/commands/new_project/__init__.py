"""`omniopd init`: a project of its own, with the package installed and no code of it in the folder.

The files beside this module are those of a new project; stages.yaml is also the dvc.yaml of the
repository, under another name as DVC reads every dvc.yaml below it.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.commands import profiles
from pipeline.core.errors import UserError
from pipeline.runner.dag import plan_files
from pipeline.stage import dataflow

HERE = Path(__file__).parent
# what a project is made of, and the file beside this one
NEW = {"dvc.yaml": "stages.yaml", "README.md": "README.md", "extensions/README.md": "extensions.md"}
LISTS = {".gitignore": "gitignore", ".dvcignore": "dvcignore"}  # these are added to
STAYS = "README.md"  # of a repository that has one
TAKEN = (
    *("params.yaml", "dvc.yaml", "dvc.lock", ".dvc", "dag", "code", "extensions"),
    *(f"data/{stage}" for stage in ("arms", "report", *dataflow.WRITES)),
)
CONFIG = ".dvc/config"
SETTINGS = """[core]
    analytics = false
    check_update = false
[plots]
    html_template = ../data/report/plots/page.html
"""  # no server is asked


def make(folder: Path, profile: str) -> str:
    """Make a project in `folder`, which may exist; what to do next, in words.

    Raises UserError, and leaves the folder as it was, where a file would be overwritten, the
    profile is none, or git or DVC cannot do their part.
    """
    params = profiles.text(profile)
    _check(folder)
    with _undone(folder) as made:
        _git(folder, made)
        for name, source in NEW.items():
            if name != STAYS or not (folder / name).exists():
                _write(folder / name, _text(source), made)
        for name, source in LISTS.items():
            _add(folder / name, _text(source), made)
        _write(folder / "params.yaml", params, made)
        _dvc(folder, made)
    where = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    return f"{folder}: a project with profile {profile}. Next: {profiles.after(profile, where)}."


def _check(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: found a file, wanted a folder or nothing. Name another.")
    there = [name for name in TAKEN if (folder / name).exists()]
    if there:
        raise UserError(
            f"{folder}: found {', '.join(sorted(there))}, wanted none of these, as nothing is "
            "overwritten. Name another folder, or move them away."
        )
    if shutil.which("git") is None:
        raise UserError("git: found no such program, wanted it on PATH. Install it.")


@contextmanager
def _undone(folder: Path) -> Iterator[list[tuple[Path, str | None]]]:
    """Yields a list of what is made, each with the text that was there; undone on an exception."""
    made: list[tuple[Path, str | None]] = []
    for parent in [folder, *folder.parents]:
        if parent.exists():
            break
        made.insert(0, (parent, None))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield made
    except BaseException:
        for path, before in reversed(made):
            if before is not None:
                path.write_text(before, encoding="utf-8")
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        raise


def _write(path: Path, text: str, made: list[tuple[Path, str | None]]) -> None:
    if not path.parent.exists():
        made.append((path.parent, None))
        path.parent.mkdir()
    made.append((path, None))
    path.write_text(text, encoding="utf-8")


def _add(path: Path, text: str, made: list[tuple[Path, str | None]]) -> None:
    """Lines of `text` that the file lacks, below those that it has."""
    if not path.exists():
        _write(path, text, made)
        return
    before = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line not in before.splitlines()]
    made.append((path, before))
    end = "" if before.endswith("\n") or not before else "\n"
    path.write_text(before + end + "".join(f"{line}\n" for line in lines), encoding="utf-8")


def _git(folder: Path, made: list[tuple[Path, str | None]]) -> None:
    """A repository, where the folder lies in none. Raises UserError where git cannot tell."""
    command = ["git", "rev-parse", "--is-inside-work-tree"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True
    )
    if "not a git repository" in done.stderr:
        made.append((folder / ".git", None))
        _run(["git", "init", "--quiet"], folder)
    elif done.stdout.strip() != "true":
        said = " ".join(done.stderr.split()) or "it lies inside a folder of git's own."
        raise UserError(f"{folder}: wanted a folder that git can use. {said} Name another.")


def _dvc(folder: Path, made: list[tuple[Path, str | None]]) -> None:
    """Run `dvc init`, as part of a repository where its root is another folder."""
    made.append((folder / ".dvc", None))
    inside = [] if (folder / ".git").exists() else ["--subdir"]
    try:
        _run(plan_files.dvc("init", "--quiet", *inside), folder)
        (folder / CONFIG).write_text(SETTINGS, encoding="utf-8")
        _run(["git", "add", CONFIG], folder)
    except BaseException:  # of what it has told git
        command = ["git", "reset", "--quiet", "--", ".dvc", ".dvcignore"]
        subprocess.run(command, cwd=folder, capture_output=True, check=False)
        raise


def _run(command: list[str], folder: Path) -> None:
    """Raises UserError with what the program says where it fails."""
    environment = {**plan_files.environment(), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        name = " ".join(word for word in command if word in ("git", "dvc", "init", "config"))
        raise UserError(f"{folder}: `{name}` failed: {said} Fix this, then rerun.")


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
