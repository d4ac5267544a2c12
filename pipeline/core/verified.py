"""Compare what came out of DVC's cache with its MD5, once: the first reader does it.

DVC restores an object by its name and never reads it again, so a bit that flipped in the cache, on
the way or since would be used. A file is known again by its inode, size and time of change: what
rots after it was looked at, `omniopd verify` finds.
"""

import functools
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from pipeline.core import dvc_objects
from pipeline.core.errors import UserError

NOTES = Path(".dvc/tmp/omniopd-verified.sqlite")  # DVC keeps that folder out of git
STAGE = "DVC_STAGE"  # in the environment of what `dvc repro` and `omniopd run` start
_command = False  # whether a command of ours reads, in whatever thread: it looks too


def once(path: str | Path) -> None:
    """Raise UserError if `path`, a file or a folder, is not what dvc.lock says of it, nor anything
    else that the cache has. What dvc.lock does not name is left alone, and so is everything where
    a stage is run by hand, on whatever is there.
    """
    if not _command and STAGE not in os.environ:
        return
    known, given = _outs(), Path(path)
    # data/ itself may be a link to another disk, and data/arms is links to cells
    for folder in (os.path.abspath(given.parent), os.path.realpath(given.parent)):
        there = Path(os.path.relpath(folder), given.name)
        for parent in (there, *there.parents):
            if out := known.get(parent.as_posix()):
                hold(parent, out, there)
                return


@contextmanager
def reading() -> Iterator[None]:
    """Verify what the block reads, as in a stage that DVC or the flow started."""
    global _command
    before, _command = _command, True
    try:
        yield
    finally:
        _command = before


def asked(cache: Path) -> dict[str, str]:
    """The environment of stages that asks for it; the cache's objects lie in `cache`."""
    return {STAGE: "omniopd run", dvc_objects.CACHE: str(cache)}


def hold(out: Path, wanted: dvc_objects.Out, path: Path | None = None) -> None:
    """Verify an out, or the part of it at `path`, against what it should be."""
    path = path or out
    if not wanted.oid.endswith(dvc_objects.FOLDER):
        _file(path, wanted)
        return
    listing = dvc_objects.listing(dvc_objects.cache(), wanted.oid)
    if listing is None:  # damaged, or the cache is gone
        _whole(out, wanted)
        return
    for name, oid in listing.items():
        file = out / name
        if file.is_relative_to(path) and file.is_file():
            _file(file, dvc_objects.Out(oid, wanted.cell))


def _file(path: Path, wanted: dvc_objects.Out) -> None:
    if not path.is_file():
        return  # whoever wants it says so
    status = path.stat()
    token = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {wanted.oid}"
    if _seen.get(str(path)) == token or _noted(path) == token:
        return
    _compare(path, dvc_objects.md5(path), wanted)
    _seen[str(path)] = token
    _note(path, token)


def _whole(out: Path, wanted: dvc_objects.Out) -> None:
    """A folder by its listing, once a process."""
    if out.is_dir() and _seen.get(str(out)) != wanted.oid:
        listed = hashlib.md5(dvc_objects.listed(out), usedforsecurity=False).hexdigest()
        _compare(out, listed + dvc_objects.FOLDER, wanted)
        _seen[str(out)] = wanted.oid


def _compare(path: Path, found: str, wanted: dvc_objects.Out) -> None:
    # another that the cache has is of a run that dvc.lock does not have yet
    if found != wanted.oid and not dvc_objects.place(dvc_objects.cache(), found).is_file():
        raise UserError(
            f"{path}: found content of MD5 {found}, wanted {wanted.oid}, which dvc.lock says that "
            f"{wanted.cell} wrote. It was damaged, or changed by hand. Run `omniopd verify "
            "--repair`, which restores it or says what reruns; `dvc commit` keeps a change."
        )


@functools.cache
def _outs() -> dict[str, dvc_objects.Out]:
    return dvc_objects.outs()


def _noted(path: Path) -> str | None:
    with suppress(sqlite3.Error), closing(_notes()) as notes:
        row = notes.execute("select token from seen where path = ?", [str(path)]).fetchone()
        return row and str(row[0])
    return None


def _note(path: Path, token: str) -> None:
    """Note that a file was verified; one that cannot be noted is read again the next time."""
    with suppress(sqlite3.Error), closing(_notes()) as notes:
        notes.execute("insert or replace into seen values (?, ?)", [str(path), token])


def _notes() -> sqlite3.Connection:
    notes = sqlite3.connect(NOTES, timeout=10, isolation_level=None)
    notes.execute("pragma synchronous = off")
    notes.execute("create table if not exists seen (path text primary key, token text)")
    return notes


_seen: dict[str, str] = {}  # by this process
