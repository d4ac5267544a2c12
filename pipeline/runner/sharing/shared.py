"""DVC's cache on a disk that a team shares: writable by the group, tried before it is used.

What says so lies in .dvc/config.local, which git does not carry: each clone that uses the cache has
to say so itself, and is written down in it (clones.py).
"""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError
from pipeline.runner.sharing import clones, links

if TYPE_CHECKING:
    from dvc.repo import Repo

OPEN = stat.S_ISGID | stat.S_IRWXU | stat.S_IRWXG | stat.S_IROTH | stat.S_IXOTH
OBJECTS = ("files", "md5")  # folders of the cache that its objects lie in
ENTRY = 0o664  # of the run-cache's files


def share(given: Path) -> Iterator[str]:
    """Have the project in this folder use the cache at `given`; in words, as it is done.

    What its own cache has goes there. Raises UserError, and then the project uses what it did.
    """
    from dvc.repo import Repo

    repo = Repo(_wait_for_lock=True)
    root, cache = Path.cwd(), Path(os.path.abspath(given.expanduser()))
    if cache.is_relative_to(root):
        raise UserError(
            f"--cache: found {cache}, a folder of this project, wanted one that all may see and "
            "that no clone takes along. Name another."
        )
    _open(cache)
    kinds = _tried(cache, root)
    yield f"cache {cache}: an object written, read back and removed; its group may write it"
    yield f"links there: {', '.join(kinds) or 'none, checkpoints are copies'}"
    before = Path(repo.cache.local.path).parents[len(OBJECTS) - 1]
    with repo.lock, clones.settled(cache):
        if before.resolve() != cache.resolve():
            moved = _copy(repo, before, cache)
            yield f"{moved} objects of {before} are in it now; nothing reads that folder any more"
        clones.register(cache, root)
        with repo.config.edit("local") as settings:
            settings["cache"] |= {"dir": str(cache), "shared": links.GROUP, "type": links.TABLES}
    links.settle()
    known = clones.others(cache, root)
    yield f"clones that use it: this one and {len(known)} more"


def _open(cache: Path) -> None:
    """Make the folder, and see that the group may write it and all folders in it."""
    (cache / clones.FOLDER).mkdir(parents=True, exist_ok=True)
    group = cache.stat().st_gid
    folders = (Path(top, name) for top, names, _ in os.walk(cache) for name in names)
    for folder in (cache, *folders):
        found = folder.stat()
        if found.st_mode & OPEN == OPEN and found.st_gid == group:
            continue
        try:
            os.chown(folder, -1, group)
            folder.chmod(stat.S_IMODE(found.st_mode) | OPEN)
        except PermissionError as error:
            raise UserError(
                f"{folder}: found {stat.filemode(found.st_mode)} of another user, wanted a folder "
                "that its group may write (drwxrwsr-x). Have its owner run `omniopd share --cache` "
                "or `chmod g+ws`, and be of the group."
            ) from error


def _tried(cache: Path, root: Path) -> list[str]:
    """Write an object as DVC does, read it back, remove it; the links that can be made to it."""
    from dvc.fs import localfs
    from dvc_data.hashfile.db import get_odb

    odb = get_odb(localfs, str(cache.joinpath(*OBJECTS)), hash_name="md5", shared=links.GROUP)
    data = os.urandom(1024)
    oid = hashlib.md5(data, usedforsecurity=False).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        source.write_bytes(data)
        odb.add(str(source), localfs, oid)
    place = Path(odb.oid_to_path(oid))
    try:
        found, above = place.read_bytes(), place.parent.stat()
        kinds = links.possible(place.parent, root / ".dvc")
    finally:
        odb.delete(oid)
    wanted = above.st_mode & OPEN == OPEN and above.st_gid == cache.stat().st_gid
    if found != data or not wanted:
        raise UserError(
            f"{cache}: found {'other bytes' if found != data else stat.filemode(above.st_mode)} "
            "after writing there, wanted the same bytes in a folder that the group may write. Use "
            "a disk that keeps rights of a group."
        )
    return kinds


def _copy(repo: "Repo", before: Path, cache: Path) -> int:
    """Copy what the project's cache has, each object read through; its run-cache, too."""
    from dvc.fs import localfs
    from dvc_data.hashfile.db import get_odb

    odb = get_odb(localfs, str(cache.joinpath(*OBJECTS)), hash_name="md5", shared=links.GROUP)
    old: Any = repo.cache.local
    known = sorted(old.all()) if Path(old.path).is_dir() else []
    lacking = [oid for oid in known if not odb.exists(oid)]
    for folders in (False, True):  # a folder's listing behind its files
        some = [oid for oid in lacking if oid.endswith(".dir") is folders]
        odb.add([old.oid_to_path(oid) for oid in some], localfs, some, verify=True)
    damaged = [oid for oid in lacking if not odb.exists(oid)]
    if damaged:
        raise UserError(
            f"{before}: found {len(damaged)} damaged objects, {old.oid_to_path(damaged[0])} the "
            "first, wanted what their names say. Run `omniopd verify --repair`, then this again."
        )
    for path in _files(before / "runs"):
        to = cache / path.relative_to(before)
        if not to.is_file():
            odb.makedirs(str(to.parent))
            shutil.copyfile(path, to)
            to.chmod(ENTRY)
    return len(lacking)


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
