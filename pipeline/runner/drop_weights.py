"""Removing the weights of train cells from the folder and from DVC's cache.

An object goes when nothing else in dvc.lock has it: equal checkpoints, and the tokenizer that all
share, are one object each. A cache outside the project's folder may hold other projects' objects
under the same names, and which they use cannot be known from here: it is left alone unless
`runtime.drop_shared` says otherwise, and always where other clones are known to use it:
`omniopd cache gc` removes what none of them needs. Remotes are never touched.
"""

import functools
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runner import retention
from pipeline.runner.dag import lock_files
from pipeline.runner.sharing import clones
from pipeline.stage import resume

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage

TRASH = resume.FOLDER / "dropped"


class Dropping:
    """Drop weights of one DVC project: from its folder, and from its cache where it may."""

    def __init__(self, repo: "Repo", stages: "dict[str, Stage]", shared: bool) -> None:
        self._stages = stages
        self._cache = Path(repo.cache.local.path)
        within = self._cache.resolve().is_relative_to(Path(repo.root_dir).resolve())
        others = clones.others(self._cache.parents[1], Path(repo.root_dir))
        self.left_in_cache = not within and (bool(others) or not shared)

    def drop(self, names: Collection[str], what: str) -> int:
        """Remove the weights of these cells, which experiment.keep_checkpoints does not keep.

        `what` is the setting's value. Return the bytes of the files in the folder. Call it when
        dvc.lock has these cells. Killed at any moment it leaves each out whole or gone, and what is
        left to do is done the next time.
        """
        outs = [out for name in names for out in _weights(self._stages[name])]
        gone = {oid for out in outs for oid in self._objects(str(out.hash_info.value))}
        if not self.left_in_cache:
            # a folder's object last: it knows those of its files
            for oid in sorted(gone - self._used(names), key=lambda oid: oid.endswith(".dir")):
                self._object(oid).unlink(missing_ok=True)
        for name in names:
            retention.note(name, what)
        size = 0
        with _trash() as trash:
            for i, path in enumerate(path for out in outs if (path := Path(out.fs_path)).exists()):
                files = (file for file in (path, *path.rglob("*")) if file.is_file())
                size += sum(file.stat().st_size for file in files)
                path.rename(trash / f"{os.getpid()}-{i}")
        return size

    def _used(self, dropping: Collection[str]) -> set[str]:
        """Objects of every out in dvc.lock, but for weights that are dropped now or have been."""
        found: set[str] = set()
        for name, stage in self._stages.items():
            for out in stage.outs:
                weighty = retention.trains(name) and out in _weights(stage)
                if not weighty or (name not in dropping and out.exists):
                    found.update(self._objects(str(out.hash_info.value)))
        for oid in self._left:
            found.update(self._objects(oid))
        return found

    @functools.cached_property
    def _left(self) -> list[str]:
        """The hashes of outs of cells that ran and that the plan no longer has."""
        ran = lock_files.entries(lock_files.read())
        left = {name: entry for name, entry in ran.items() if name not in self._stages}
        return [out["md5"] for stage in left.values() for out in stage.get("outs", [])]

    def _objects(self, oid: str) -> Iterator[str]:
        """An object and, if it is a folder, its files."""
        yield oid
        if oid.endswith(".dir") and self._object(oid).is_file():
            for entry in json.loads(self._object(oid).read_text(encoding="utf-8")):
                yield entry["md5"]

    def _object(self, oid: str) -> Path:
        return self._cache / oid[:2] / oid[2:]


@contextmanager
def _trash() -> Iterator[Path]:
    """A folder on the same disk, gone at the end with what is in it."""
    TRASH.mkdir(parents=True, exist_ok=True)
    yield TRASH
    clear()


def clear() -> None:
    """Remove what is on its way out; of a killed process, too."""
    if TRASH.exists():
        shutil.rmtree(TRASH)
        with suppress(OSError):  # others keep something there
            TRASH.parent.rmdir()


def _weights(stage: "Stage") -> "list[Output]":
    return [out for out in stage.outs if Path(out.fs_path).name in retention.WEIGHTS]


def above(stage: "Stage", names: Iterable[str]) -> bool:
    """Whether the stage depends on a folder that holds these cells, as report does."""
    folders = {parent for name in names for parent in retention.folder(name).resolve().parents}
    return any(Path(dep.fs_path) in folders for dep in _files(stage))


def _files(stage: "Stage") -> list[Any]:
    return [dep for dep in stage.deps if not hasattr(dep, "params")]
