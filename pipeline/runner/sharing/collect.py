"""Removing from a shared cache what no known clone needs.

`dvc gc --projects` would let the other clones go before it removes anything: what they make in that
moment is lost. So all are held still to the end, and DVC's own functions do the rest.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.core import dvc_objects
from pipeline.core.errors import UserError
from pipeline.runner.sharing import busy, clones

if TYPE_CHECKING:
    from dvc.repo import Repo

REMOTES = "refs/remotes/"


class Collected(NamedTuple):
    """What was removed, or would be."""

    objects: int
    bytes: int
    kept: int
    clones: int


def collect(dry: bool) -> Collected:
    """Remove objects that no branch (of a git remote, too), tag, experiment or workspace of a known
    clone names, and that no link in one leads to.

    Raises UserError, and then nothing is removed, where the cache is not a shared one, or a clone
    cannot be held still or read.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.gc import gc
    from dvc_data.hashfile.hash_info import HashInfo

    objects = dvc_objects.configured()
    cache = objects.parents[1]
    if not clones.shared(cache):
        raise UserError(
            f"{cache}: found no clones written down there, wanted to know who uses it. If you "
            "share it, run `omniopd share --cache` in each clone; `dvc gc` is for one of your own."
        )
    clones.register(cache, Path.cwd())  # also one whose settings were made by hand
    odb: Any = Repo().cache.local
    with clones.settled(cache), busy.held(clones.read(cache)) as repos:
        needed = {oid for repo in repos for oid in _needed(repo, objects)}
        there = list(odb.all())
        over = [oid for oid in there if oid not in needed]
        size = sum(_size(Path(odb.oid_to_path(oid))) for oid in over)
        if not dry:
            gc(odb, [HashInfo("md5", oid) for oid in needed])
    return Collected(len(over), size, len(there) - len(over), len(repos))


def _needed(repo: "Repo", objects: Path) -> Iterator[str]:
    from dvc.exceptions import DvcException
    from dvc.scm import NoSCM

    git = not isinstance(repo.scm, NoSCM)
    revisions = list(repo.scm.iter_refs(REMOTES)) if git else None
    every = dict.fromkeys(("all_branches", "all_tags", "all_experiments"), git)
    try:
        used = repo.used_objs(revs=revisions, force=True, **every)
    except DvcException as error:
        raise UserError(
            f"{repo.root_dir}: DVC cannot tell what it needs: {error}. Correct it, then rerun."
        ) from error
    for some in used.values():
        yield from (str(one.value) for one in some)
    yield from _linked(Path(repo.root_dir), objects)


def _linked(folder: Path, objects: Path) -> Iterable[str]:
    """Objects that symbolic links of the folder lead to."""
    for top, names, files in os.walk(folder / "data"):
        for name in (*names, *files):
            path = Path(top, name)
            if path.is_symlink() and (to := Path(os.readlink(path))).is_relative_to(objects):
                yield "".join(to.relative_to(objects).parts)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
