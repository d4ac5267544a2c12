"""Holding clones still: nobody plans, runs, commits or restores in them until the block ends.

A run is known by the lock of `omniopd run`, by what DVC notes of files in use while a stage runs,
and by DVC's own lock between stages. A note of DVC's has a process and no host, so of a clone that
was worked in elsewhere it counts as long as it stands.
"""

import fcntl
import json
import os
import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pipeline.core.errors import UserError, short
from pipeline.processes import cell_log
from pipeline.runner.sharing.clones import Clone

if TYPE_CHECKING:
    from dvc.repo import Repo

FLOW_LOCK = Path(".dvc/tmp/omniopd-run.lock")
NOTES = Path(".dvc/tmp/rwlock")
LOCK = Path(".dvc/tmp/lock")
EXPERIMENTS = ".dvc/tmp/exps/**/.dvc"  # copies in which `dvc exp run --temp` and queues run


@contextmanager
def alone() -> Iterator[None]:
    """Hold the project's flow lock, which says who does. Raises UserError if another flow has it.

    Left behind by a flow that was killed it holds nothing.
    """
    with FLOW_LOCK.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                "another `omniopd run` is at work in this folder. Wait for it or stop it."
            ) from error
        file.truncate(0)
        file.write(cell_log.who())
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


@contextmanager
def held(clones: Iterable[Clone]) -> Iterator[list["Repo"]]:
    """DVC's projects in these clones, and in copies of theirs for experiments, held still.

    Raises UserError naming one that is not there, may not be locked, or is at work.
    """
    with ExitStack() as stack:
        repos = []
        for clone in clones:
            folder = Path(clone.folder)
            if not (folder / ".dvc").is_dir():
                raise UserError(
                    f"{folder} of {clone.user} on {', '.join(clone.hosts)}: not found here, wanted "
                    "to see what it needs. Run this where it is, or `omniopd cache gc --forget "
                    f"{folder}` if it is gone for good."
                )
            alone = clone.hosts == (socket.gethostname(),)
            for place in (folder, *sorted(one.parent for one in folder.glob(EXPERIMENTS))):
                repos.append(stack.enter_context(_held(place, clone.user, alone)))
        yield repos


@contextmanager
def _held(folder: Path, user: str, alone: bool) -> Iterator["Repo"]:
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    with ExitStack() as stack:
        try:
            if (folder / FLOW_LOCK).is_file():
                stack.enter_context(_run(folder / FLOW_LOCK))
            _may_ask_git(folder)
            new = not (folder / LOCK).exists()
            repo = Repo(str(folder))
            stack.callback(repo.close)
            stack.enter_context(repo.lock)
            if new:  # its owner has to take it, too
                above = folder.stat()
                os.chown(folder / LOCK, above.st_uid, above.st_gid)
        except LockError as error:
            raise _at_work(folder, "DVC has its lock") from error
        except DvcException as error:
            raise UserError(f"{folder}: DVC cannot read it: {error}. Correct it.") from error
        except PermissionError as error:
            raise UserError(
                f"{folder} of {user}: found no right to lock it ({error.filename}), wanted one, so "
                "that nobody starts there meanwhile. Run this as somebody who may write there, or "
                "as root."
            ) from error
        if noted := _noted(folder / NOTES, alone):
            raise _at_work(folder, noted)
        yield repo


def _may_ask_git(folder: Path) -> None:
    """Raise UserError where git gives no answer in a folder of somebody else's."""
    words = ["git", "-C", str(folder), "rev-parse"]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace")
    if "dubious ownership" in done.stderr:
        raise UserError(
            f"{folder}: found that git answers its owner alone, wanted its branches and tags. Run "
            f"`git config --global --add safe.directory {folder}`, if you trust who works there."
        )


@contextmanager
def _run(path: Path) -> Iterator[None]:
    """Hold the lock of `omniopd run`."""
    with path.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _at_work(path.parents[2], f"`omniopd run`: {file.read().strip()}") from error
        yield


def _noted(path: Path, alone: bool) -> str:
    """Who has files in use by DVC's notes; empty where nobody has."""
    try:
        found = json.loads(path.read_text(encoding="utf-8") or "{}")
    except FileNotFoundError:
        return ""
    except ValueError:
        return f"{path} cannot be read"
    users: list[Any] = [*found.get("write", {}).values()]
    users += [one for some in found.get("read", {}).values() for one in some]
    for one in users:
        if not alone or psutil.pid_exists(int(one["pid"])):
            return f"process {one['pid']} has files in use: {short(one['cmd'], 120)}"
    return ""


def _at_work(folder: Path, what: str) -> UserError:
    return UserError(
        f"{folder}: found it at work ({what}), wanted every clone still: what is made meanwhile "
        "and not yet in a dvc.lock would be removed. Wait for it or stop it, then run this again."
    )
