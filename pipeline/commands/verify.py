"""Every stored byte of the project held against its digest, at the speed of the disk.

DVC's cache, the outs in the workspace, a remote, the judgment store and .resume/. DVC itself trusts
what it once hashed: a flipped bit in its cache is restored and used without a word.
"""

import functools
import glob
import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from pipeline.core import dvc_objects
from pipeline.core.errors import UserError

if TYPE_CHECKING:
    from dvc.repo import Repo

THREADS = 2  # MD5 releases the interpreter's lock: two of them read what a disk gives
BATCH = 1 << 24  # bytes handed to a thread together, so that small files cost little each


@dataclass
class Found:
    """Counts of what was read, and what is wrong. Paths are as people see them."""

    files: int = 0
    bytes: int = 0
    notes: list[str] = field(default_factory=list)  # damage, each with what it is of
    repaired: list[str] = field(default_factory=list)
    cells: set[str] = field(default_factory=set)  # that have to rerun
    left: int = 0  # damaged things that are still there

    def report(self, what: str, repaired: str | None) -> None:
        """Say that something is damaged and, if so, what was done about it."""
        self.notes.append(f"damaged: {what}")
        if repaired is None:
            self.left += 1
        else:
            self.repaired.append(f"{what}: {repaired}")


def hashed(paths: Iterable[str], found: Found, what: str) -> list[str]:
    """MD5 of each file, in their order."""
    batches = list(_batches(paths))
    size = sum(size for _, size in batches)
    digests: list[str] = []
    with (
        ThreadPoolExecutor(THREADS) as pool,
        tqdm(total=size, desc=what, unit="B", unit_scale=True, disable=None) as bar,
    ):
        for (_, read), values in zip(batches, pool.map(_read, batches), strict=True):
            digests += values
            bar.update(read)
    found.files, found.bytes = found.files + len(digests), found.bytes + size
    return digests


def _read(batch: tuple[list[str], int]) -> list[str]:
    return [dvc_objects.md5(path) for path in batch[0]]


def _batches(paths: Iterable[str]) -> Iterator[tuple[list[str], int]]:
    names: list[str] = []
    size = 0
    for path in paths:
        names.append(path)
        size += os.stat(path).st_size
        if size >= BATCH:
            yield names, size
            names, size = [], 0
    if names:
        yield names, size


class Verifier:
    """One look at all that belongs to the project in the current directory."""

    def __init__(self, repair: bool, remote: bool) -> None:
        self.found = Found()
        self._repair, self._remote = repair, remote
        self._cache = dvc_objects.configured()
        self._outs = dvc_objects.outs()

    @functools.cached_property
    def _repo(self) -> "Repo":
        """Only a remote needs it: it takes as long to load as a gigabyte to read."""
        from dvc.repo import Repo

        return Repo()

    @functools.cached_property
    def _users(self) -> dict[str, list[tuple[Path, str]]]:
        """Files or folders, and their cells, by the MD5 that they have in dvc.lock."""
        users: dict[str, list[tuple[Path, str]]] = defaultdict(list)
        for path, out in self._outs.items():
            if out.oid.endswith(dvc_objects.FOLDER):
                users[out.oid].append((Path(path), out.cell))
        for file, oid, cell in dvc_objects.files(self._cache, self._outs):
            users[oid].append((Path(file), cell))
        return users

    def cache(self) -> None:
        """Objects whose content is not what their name says."""
        there = {
            f"{folder}/{name}": Path(folder).name + name
            for folder in glob.glob(f"{glob.escape(str(self._cache))}/??")
            for name in os.listdir(folder)
            if len(name.removesuffix(dvc_objects.FOLDER)) == 30
        }
        digests = hashed(there, self.found, "cache")
        for (path, oid), digest in zip(there.items(), digests, strict=True):
            if digest != oid.removesuffix(dvc_objects.FOLDER):
                self._object(Path(path), oid)

    def _object(self, path: Path, oid: str) -> None:
        users = self._users.get(oid, [])
        of = (
            ", ".join(sorted({f"{file} of {cell}" for file, cell in users}))
            or "nothing in dvc.lock"
        )
        copies = [one for one, _ in users if _good(one, oid, path)]
        repaired = None
        if self._repair:
            repaired = self._restored(path, oid, copies)
            if repaired is None:
                path.unlink()
                repaired = "removed; no good copy was found"
        if not copies and not (repaired or "").startswith("restored"):
            self.found.cells |= {cell for _, cell in users}
        self.found.report(f"{path} ({of})", repaired)

    def _restored(self, path: Path, oid: str, copies: list[Path]) -> str | None:
        """Put a good copy of an object in its place; where it was from, None if there is none."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            for copy, name in [*((c, str(c)) for c in copies), (None, "the remote")]:
                if copy is None:
                    if not self._fetched(oid, temporary):
                        continue
                elif copy.is_dir():
                    temporary.write_bytes(dvc_objects.listed(copy))
                else:
                    shutil.copyfile(copy, temporary)
                if dvc_objects.md5(temporary) == oid.removesuffix(dvc_objects.FOLDER):
                    temporary.chmod(0o444)
                    temporary.replace(path)
                    return f"restored from {name}"
        finally:
            temporary.unlink(missing_ok=True)
        return None

    def _fetched(self, oid: str, path: Path) -> bool:
        """Copy an object of the default remote to `path`, if there is one and it has it."""
        from dvc.config import NoRemoteError

        try:
            remote = self._repo.cloud.get_remote_odb()
        except NoRemoteError:
            return False
        where = remote.oid_to_path(oid)
        if not remote.fs.exists(where):
            return False
        remote.fs.get_file(where, str(path))
        return True

    def workspace(self) -> None:
        """Outs that are neither what dvc.lock says nor anything else that the cache has whole."""
        vars(self).pop("_users", None)  # listings may have been restored
        wanted: dict[str, tuple[str, str]] = {}
        for file, oid, cell in dvc_objects.files(self._cache, self._outs):
            if os.path.isfile(file):
                wanted[file] = oid, cell
        digests = hashed(wanted, self.found, "workspace")
        for (file, (oid, cell)), digest in zip(wanted.items(), digests, strict=True):
            if digest == oid or dvc_objects.place(self._cache, digest).is_file():
                continue  # the second is of a run that dvc.lock does not have yet
            path = Path(file)
            repaired = None
            if not self._repair:
                if not dvc_objects.place(self._cache, oid).is_file():
                    self.found.cells.add(cell)
            else:
                path.unlink()
                if dvc_objects.place(self._cache, oid).is_file():
                    shutil.copyfile(dvc_objects.place(self._cache, oid), path)
                    repaired = "restored from the cache"
                else:
                    self.found.cells.add(cell)
                    repaired = "removed; no good copy was found"
            self.found.report(f"{path} of {cell}", repaired)

    def remote(self) -> None:
        """Objects of dvc.lock in the default remote, read as they lie there."""
        if not self._remote:
            return
        odb = self._repo.cloud.get_remote_odb()
        for oid in tqdm(sorted(self._users), desc="remote", unit="object", disable=None):
            where = odb.oid_to_path(oid)
            if not odb.fs.exists(where):
                continue
            digest = hashlib.md5(usedforsecurity=False)
            with odb.fs.open(where, "rb") as file:
                while piece := file.read(dvc_objects.PIECE):
                    digest.update(piece)
                    self.found.bytes += len(piece)
            self.found.files += 1
            if digest.hexdigest() != oid.removesuffix(dvc_objects.FOLDER):
                self.found.report(
                    f"{where} in the remote: delete it there, then `omniopd cache push` sends a "
                    "good copy",
                    None,
                )

    def store(self) -> None:
        """The judgment store, if there is one."""
        from pipeline.judgments import database, store

        url = database.parse(store.url())
        if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
            return
        from pipeline.judgments import archive, repair

        with store.Store(store.url()) as opened:
            if self._repair:
                done = repair.repair(opened)
                self.found.files += done.rows
                for row in done.repaired:
                    self.found.report(
                        f"{opened.name}: the answer {row.name}: {row.why}", "repaired"
                    )
                if done.reindexed:
                    self.found.report(f"{opened.name}: an index", "built anew")
                if done.recounted:
                    self.found.report(f"{opened.name}: {done.recounted} counts", "made anew")
                for project in done.totals:
                    self.found.report(f"{opened.name}: the total of {project}", "added up anew")
                for row in done.damaged:
                    self.found.report(
                        f"{opened.name}: the answer {row.name}: {row.why}. See `omniopd judgments "
                        "repair` for what it costs to buy again",
                        None,
                    )
                return
            try:
                self.found.files += archive.verify(opened)
            except UserError as error:
                self.found.report(str(error), None)

    def kept(self) -> None:
        """Read what killed stages go on from: what is damaged of it is done again anyway."""
        from pipeline.stage import resume

        for path in sorted(resume.FOLDER.glob("*-*/*.safetensors")):
            self.found.files += 1
            self.found.bytes += path.stat().st_size
            try:
                resume.whole(path)
            except ValueError as error:
                if self._repair:
                    path.unlink()
                repaired = "removed; its stage does that work again" if self._repair else None
                self.found.report(f"{path}: {error}", repaired)


def verify(repair: bool, remote: bool) -> Found:
    """Verify everything and, with `repair`, repair what can be. Raises UserError."""
    one = Verifier(repair, remote)
    steps: list[Callable[[], None]] = [one.cache, one.workspace, one.remote, one.store, one.kept]
    for step in steps:
        step()
    return one.found


def _good(copy: Path, oid: str, damaged: Path) -> bool:
    """Whether `copy` has the content that an object should have, and is no link to it."""
    if copy.is_dir():
        return hashlib.md5(dvc_objects.listed(copy)).hexdigest() + dvc_objects.FOLDER == oid
    return copy.is_file() and not copy.samefile(damaged) and dvc_objects.md5(copy) == oid
