"""Which cells DVC would leave as they are or restore, by its dvc.lock files, caches and the folder.

As `dvc repro` decides it, but for the bytes in the folder: of these only whether they are there.
Nothing is locked, and DVC, which takes a second to load, is not.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

import tenacity

from pipeline.core import dag_names, dvc_objects, yaml_files
from pipeline.core.errors import UserError
from pipeline.engines.checkpoints import NOTE
from pipeline.runner import retention
from pipeline.runner.dag import dag_files, lock_files

TRIES, WAIT_SECONDS = 5, 0.05


class Cell(NamedTuple):
    """What DVC has of a cell of the plan."""

    outs: dict[str, str] | None  # MD5 by path of what it is to hold; None: it has to run
    changed: tuple[str, ...]  # dependencies that are others than when it ran
    here: bool = False  # its outs are in the folder
    cached: bool = False  # they are in DVC's cache


class Files:
    """Contents of dvc.lock files and listings in DVC's cache, each read once."""

    def __init__(self) -> None:
        self.cache = dvc_objects.configured()
        self._locks: dict[Path, tuple[Any, dict[str, lock_files.Entry]]] = {}
        self._listings: dict[str, dict[str, str] | None] = {}

    def locked(self) -> dict[str, lock_files.Entry]:
        """What DVC knows of each cell. Raises UserError as `lock_files.read` does."""
        found = dict[str, lock_files.Entry]()
        for path in dag_names.locks():
            status = path.stat()
            token = status.st_ino, status.st_size, status.st_mtime_ns
            if self._locks.get(path, (None,))[0] != token:
                self._locks[path] = token, _entries(path)
            found |= self._locks[path][1]
        return found

    def listing(self, oid: str) -> dict[str, str] | None:
        """MD5 of each file of a folder by its path in it; None where the cache has it not."""
        if self._listings.get(oid) is None:
            self._listings[oid] = dvc_objects.listing(self.cache, oid)
        return self._listings[oid]

    def cached(self, oid: str) -> bool:
        """Whether the cache has a file, or a folder with all its files."""
        if not oid.endswith(dvc_objects.FOLDER):
            return dvc_objects.place(self.cache, oid).is_file()
        inside = self.listing(oid)
        return inside is not None and all(map(self.cached, set(inside.values())))


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(UserError),
    wait=tenacity.wait_fixed(WAIT_SECONDS),
    stop=tenacity.stop_after_attempt(TRIES),
    reraise=True,
)
def _entries(path: Path) -> dict[str, lock_files.Entry]:
    """DVC writes the file where it stands, so that half of it may be there for an instant."""
    return lock_files.entries(lock_files.read([path]))


class Settling:
    """The cells of one plan in dependency order, each settled by those that it reads."""

    def __init__(self, files: Files) -> None:
        self._files, self._ran = files, files.locked()
        self._outs: dict[str, str] = {}  # of cells that are settled
        self._by_hand = dict(yaml_files.load(Path(dag_names.DVC)).get("stages") or {})

    def cells(self, found: dict[str, Any], reads: Mapping[str, Set[str]]) -> dict[str, Cell]:
        """Each cell of the plan `found`; `reads` is in dependency order."""
        folders, result = dag_files.folders(found), dict[str, Cell]()
        for name in reads:
            folder = folders[name]
            by_hand = folder == dag_names.ROOT
            stage = self._by_hand.get("report") if by_hand else dag_files.stage(found, folder, name)
            known = stage is not None and all(result[one].outs is not None for one in reads[name])
            result[name] = self._cell(name, stage or {}, known)
            self._outs |= result[name].outs or {}
        return result

    def _cell(self, name: str, stage: Mapping[str, Any], known: bool) -> Cell:
        """`known`: so is all that it reads."""
        if not known:
            return Cell(None, ())
        deps = {path: self._md5(path) for path in sorted(stage["deps"])}
        entry, changed = self._ran.get(name), tuple[str, ...]()
        if entry is not None:
            changed = _changed(entry, stage, deps)
            if not changed:
                return self._kept(entry)
        for other in self._remembered(stage, deps):
            return self._kept(other)
        return Cell(None, changed)

    def _kept(self, entry: lock_files.Entry) -> Cell:
        outs = {out["path"]: out["md5"] for out in entry["outs"]}
        here = all(Path(path).exists() or _dropped(Path(path)) for path in outs)
        whole = here or all(self._files.cached(oid) for oid in outs.values())
        return Cell(outs, (), here, whole)

    def _remembered(
        self, stage: Mapping[str, Any], deps: Mapping[str, str | None]
    ) -> Iterable[lock_files.Entry]:
        """What the run-cache has of it, where the cache has what it wrote."""
        if None in deps.values():
            return
        asked: lock_files.Entry = {
            "cmd": stage["cmd"],
            "deps": [{"path": path, "hash": "md5", "md5": md5} for path, md5 in deps.items()],
            "outs": sorted(stage["outs"]),
        }
        for entry in lock_files.remembered(self._files.cache, asked):
            if all(self._files.cached(out["md5"]) for out in entry["outs"]):
                yield entry

    def _md5(self, path: str) -> str | None:
        """Of a dependency, as it is when the cells before it are up to date."""
        if path in self._outs:
            return self._outs[path]
        if path == str(dag_files.OK):
            return _hashed(lock_files.OK_TEXT.encode())
        for parent in map(str, Path(path).parents):
            if parent in self._outs:
                inside = self._files.listing(self._outs[parent])
                if inside is None:  # the cache is gone
                    return _on_disk(path)
                return inside.get(path.removeprefix(f"{parent}/"))
        return self._folder(path) if path.startswith("data/") else _on_disk(path)

    def _folder(self, path: str) -> str | None:
        """Of data/STAGE, which holds what the cells of a stage wrote."""
        files = dict[str, str]()
        for out, oid in self._outs.items():
            name = out.removeprefix(f"{path}/")
            if name == out or _dropped(Path(out)):
                continue
            if not oid.endswith(dvc_objects.FOLDER):
                files[name] = oid
                continue
            if (inside := self._files.listing(oid)) is None and Path(out).is_dir():
                made = json.loads(dvc_objects.listed(Path(out)))
                inside = {one["relpath"]: one["md5"] for one in made}
            if inside is None:
                return None
            files |= {f"{name}/{one}": md5 for one, md5 in inside.items()}
        listed = [{"md5": files[name], "relpath": name} for name in sorted(files)]
        return _hashed(json.dumps(listed, sort_keys=True).encode()) + dvc_objects.FOLDER


def _on_disk(path: str) -> str | None:
    if Path(path).is_dir():
        return _hashed(dvc_objects.listed(Path(path))) + dvc_objects.FOLDER
    return dvc_objects.md5(path) if Path(path).is_file() else None


def _changed(
    entry: lock_files.Entry, stage: Mapping[str, Any], deps: Mapping[str, str | None]
) -> tuple[str, ...]:
    """How the stage is another than the one that ran."""
    ran = {dep["path"]: dep.get("md5") for dep in entry.get("deps", ())}
    changed = [path for path in {**ran, **deps} if ran.get(path) != deps.get(path)]
    if {out["path"] for out in entry.get("outs", ())} != set(stage["outs"]):
        changed.append("what it writes")
    if entry.get("cmd") != stage["cmd"]:
        changed.append("its command")
    return tuple(changed)


def _dropped(path: Path) -> bool:
    """Whether experiment.keep_checkpoints has taken it away."""
    weight = path.name in retention.WEIGHTS
    return weight and (path.parent / NOTE).is_file() and not path.exists()


def _hashed(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
