"""The clones that use a shared cache: a small file for each, in a folder of the cache.

DVC knows nothing of who else uses a cache, so what another clone needs can be told only of those
that are written down here. `omniopd share --cache` does it, and so does every plan in a copy.
"""

import fcntl
import getpass
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.core import yaml_files
from pipeline.core.errors import UserError
from pipeline.core.files import replacing

FOLDER = "omniopd-clones"  # longer than the two letters by which DVC knows its objects
GROUP = 0o664  # any of the group may bring a file up to date, or forget a clone


@dataclass(frozen=True)
class Clone:
    """A project's folder that uses the cache."""

    folder: str
    user: str  # who wrote it down first
    hosts: tuple[str, ...]  # where it was worked in: a process can be looked up on its own alone


def shared(cache: Path) -> bool:
    """Whether clones are written down in this cache (the folder that DVC's `cache.dir` names)."""
    return (cache / FOLDER).is_dir()


def join(cache: Path, folder: Path) -> None:
    """Write the project in `folder` down where clones are: it may be a copy of one."""
    if shared(cache):
        register(cache, folder)


def register(cache: Path, folder: Path) -> None:
    """Write down that the project in `folder`, on this host, uses the cache."""
    known = {clone.folder: clone for clone in read(cache)}.get(str(folder))
    hosts = {socket.gethostname(), *(known.hosts if known else ())}
    if known and set(known.hosts) == hosts:
        return
    user = known.user if known else _user()
    with replacing(_place(cache, str(folder))) as temporary:
        text = json.dumps(asdict(Clone(str(folder), user, tuple(sorted(hosts)))), indent=1)
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(GROUP)


def read(cache: Path) -> list[Clone]:
    """Every clone that is known, by its folder. Raises UserError where one cannot be read."""
    found = [_read(path) for path in (cache / FOLDER).glob("*.json")]
    return sorted(found, key=lambda clone: clone.folder)


@contextmanager
def settled(cache: Path) -> Iterator[None]:
    """Nobody else begins to use the cache or removes from it, until the end of the block."""
    path = cache / FOLDER / "lock"
    with path.open("a", encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_uid == os.geteuid():
            path.chmod(GROUP)
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def others(cache: Path, folder: Path) -> list[Clone]:
    """Those but for the one in `folder`."""
    return [clone for clone in read(cache) if clone.folder != str(folder)]


def forget(cache: Path, folder: str) -> None:
    """Strike a clone out. Raises UserError where none is known there."""
    known = [clone.folder for clone in read(cache)]
    if folder not in known:
        raise UserError(f"--forget: found {folder!r}, wanted one of {known}. Name one.")
    _place(cache, folder).unlink()


def _place(cache: Path, folder: str) -> Path:
    return cache / FOLDER / f"{hashlib.sha256(folder.encode()).hexdigest()[:16]}.json"


def _read(path: Path) -> Clone:
    remedy = "Remove it, and run `omniopd share` in the clone that it was of."
    found: dict[str, Any] = yaml_files.mapping(yaml_files.text(path), str(path), remedy)
    folder, user, hosts = (found.get(name) for name in ("folder", "user", "hosts"))
    if not isinstance(folder, str) or not isinstance(user, str) or not isinstance(hosts, list):
        raise UserError(f"{path}: found {sorted(found)}, wanted folder, user, hosts. {remedy}")
    return Clone(folder, user, tuple(map(str, hosts)))


def _user() -> str:
    with suppress(KeyError, OSError):  # a user without a name
        return getpass.getuser()
    return "unknown"
