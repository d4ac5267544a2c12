"""DVC for the flow: which cells are stale, and bringing a single one up to date.

The project is opened once: a `dvc repro` for each cell would start an interpreter and read every
dvc.yaml each time. The steps here are those of DVC's own `repro`, by its own functions. Cells are
named as the plan names them.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import typer

from pipeline.core import dvc_objects, verified
from pipeline.core.dag_names import cell_of
from pipeline.core.errors import UserError
from pipeline.runner import drop_weights
from pipeline.runner.drop_weights import Dropping, above
from pipeline.runner.retention import ALL, Keep, tidy, weights
from pipeline.stage.cells import log

if TYPE_CHECKING:
    from dvc.stage import Stage


class CellFailed(Exception):
    """A cell could not be brought up to date. `status` is the stage's own, None if it never ran."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def killed(self) -> bool:
        """Ended by a signal, as one that ran out of memory is: negative, or from a shell > 128.

        Bad input and a bug both end a stage with 1, and no repetition helps against either.
        """
        return self.status is not None and (self.status < 0 or self.status > 128)


class Starved(CellFailed):
    """A cell turned out to need a checkpoint that was dropped; the next pass makes that first."""


class Project:
    """The DVC project in the current directory. Its methods may be called from several threads.

    DVC's own state is of one thread, so they take turns at it; commands run side by side.
    """

    def __init__(self, keep: Keep = ALL, shared: bool = False) -> None:
        """`keep`: whose weights may be missing; `shared`: runtime.drop_shared."""
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        self._fault = DvcException
        logging.getLogger("dvc").setLevel(logging.WARNING)  # its lines are echoed cell by cell
        try:
            self.repo: Repo = Repo(_wait_for_lock=True)
            self._stages = {cell_of(one.addressing): one for one in self.repo.index.stages}
            self._names = {id(stage): name for name, stage in self._stages.items()}
        except DvcException as error:
            raise UserError(f"DVC cannot read the project: {error}") from error
        self.cache = Path(self.repo.cache.local.path)  # where its objects lie
        self._turn = Lock()
        self._keep_what = keep
        self._dropping = Dropping(self.repo, self._stages, shared)
        self._owners = {out.fs_path: s for s in self._stages.values() for out in s.outs}
        self._again: set[str] = set()  # dropped cells that changed ones read
        self._gone: set[str] = set()  # dropped by this object

    def stale(self, names: Collection[str]) -> set[str]:
        """Those of `names` that DVC would not skip.

        With them cells whose weights were dropped and that these read. A cell downstream of these
        may look fresh here and still have to run. Raises UserError.
        """
        missing = sorted(set(names) - set(self._stages))
        if missing:
            raise UserError(f"no dvc.yaml has cell {missing[0]}. Run `omniopd plan`.")
        try:
            with self.alone():
                changed = {name for name in names if self._differs(self._stages[name])}
                self._again = self._starving(changed)
                return changed | self._again
        except self._fault as error:
            raise UserError(f"DVC cannot tell what changed: {error}") from error

    def reproduce(
        self,
        name: str,
        run: Callable[["Stage", Callable[[str], None]], int],
        kept: Callable[["Stage"], None] = lambda _: None,
    ) -> bool:
        """Run this cell or restore it; whether it had to be. Raises CellFailed.

        `run` gets the stage and what takes each line of its output, and returns its status. `kept`
        is called when dvc.lock has what ran.
        """
        stage, last = self._stages[name], ""

        def line(text: str) -> None:
            nonlocal last
            typer.echo(f"{name} | {text}")
            last = text

        try:
            with self.alone():
                if not self._differs(stage):
                    line(f"Stage '{stage.addressing}' didn't change, skipping")
                    return False
                for missing in self._missing(stage):
                    raise Starved(f"reads the checkpoint of {missing}, which was dropped", None)
                if self._restore(stage):
                    said = "is cached - skipping run, checking out outputs"
                    line(f"Stage '{stage.addressing}' {said}")
                    return True
            line(f"Running stage '{stage.addressing}':")
            line(f"> {stage.cmd}")
            with self._claimed(name, stage):
                status = run(stage, line)
            if status:
                raise CellFailed(last, status)
            with self.alone():
                self._keep(stage)
            kept(stage)
        except self._fault as error:
            raise CellFailed(f"DVC: {error}", None) from error
        except UserError as error:  # what DVC restored is damaged
            raise CellFailed(str(error), None) from error
        return True

    def again(self) -> list[str]:
        """Dropped cells that changed ones read, in dependency order. Raises UserError."""
        self.stale(self._stages)
        names = set(self._again)
        order: list[str] = []
        while names:
            ready = {n for n in names if not self._missing(self._stages[n]) & names}
            order += sorted(ready)
            names -= ready
        return order

    def revived(self) -> str:
        """Say which dropped cells `stale` found that have to rerun; empty if none."""
        if not self._again:
            return ""
        first = min(self._again)
        return (
            f"{len(self._again)} of them only because experiment.keep_checkpoints dropped "
            f"checkpoints that are read, as that of {first}"
        )

    def drop(self, names: Collection[str]) -> None:
        """Drop the weights of these cells, whose readers are done."""
        with self.alone():
            drop_weights.clear()
            over = {n for n in names if any(p.exists() for p in weights(n))}
            if over:
                size = self._dropping.drop(over, self._keep_what.what)
                count = f"{len(over)} checkpoints with moments"
                where = " in the folder, not in the shared cache" * self._dropping.left_in_cache
                log.info(f"experiment.keep_checkpoints: dropped {count}, {size:,} bytes{where}")
                self._gone |= over

    def settle(self, fresh: Collection[str]) -> None:
        """Let cells that depend on whole folders, if `fresh`, stay so after weights were dropped.

        They read no weights: what dvc.lock says of the folder is brought up to date. Raises
        UserError.
        """
        try:
            with self.alone():
                for stage in (self._stages[name] for name in fresh if self._gone):
                    if above(stage, self._gone) and stage.changed_deps():
                        self._keep(stage)
        except self._fault as error:
            raise UserError(
                f"dvc.lock could not be written: {error}. Fix this, then rerun: finished cells "
                "are in DVC's cache and are restored from there."
            ) from error

    def made(self, path: str) -> str:
        """The out that a path is or lies in; empty where no stage makes it."""
        place = Path(self.repo.root_dir, path)
        found = (one for one in (place, *place.parents) if str(one) in self._owners)
        return next((os.path.relpath(one, self.repo.root_dir) for one in found), "")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """The block has DVC for itself."""
        with self._turn, self.repo.lock:
            yield

    @contextmanager
    def _claimed(self, name: str, stage: "Stage") -> Iterator[None]:
        """Another DVC command is told that the cell's files are busy, until the end of the block.

        Only DVC's own lock is free meanwhile.
        """
        from dvc.rwlock import rwlock

        files = [[one.fs_path for one in some] for some in (stage.deps, stage.outs)]
        hard = self.repo.config["core"].get("hardlink_lock", False)
        claim = rwlock(self.repo.tmp_dir, self.repo.fs, f"omniopd run: {name}", *files, hard)
        with self.alone():
            claim.__enter__()
        try:
            yield
        finally:
            with self.alone():
                claim.__exit__(None, None, None)

    def _differs(self, stage: "Stage") -> bool:
        """Ask as `dvc repro` does; for weights that may be dropped, as with --allow-missing."""
        name = self._names[id(stage)]
        may = name in self._keep_what.readers and name not in self._again
        return bool(stage.changed_stage() or self._changed_deps(stage) or stage.changed_outs(may))

    def _changed_deps(self, stage: "Stage") -> bool:
        """A missing checkpoint is as dvc.lock has it, until its cell makes another one."""
        if not self._keep_what.readers:
            return bool(stage.changed_deps())
        owners = [self._owners[dep.fs_path] for dep in stage.deps if dep.fs_path in self._owners]
        return bool(stage.changed_deps(allow_missing=True, upstream=owners))

    def _missing(self, stage: "Stage") -> set[str]:
        """Cells whose weights the stage reads and that have been dropped."""
        owners = {
            self._names[id(self._owners[dep.fs_path])]
            for dep in stage.deps
            if dep.fs_path in self._owners and not dep.exists
        }
        return owners & set(self._keep_what.readers)

    def _starving(self, changed: Collection[str]) -> set[str]:
        """Unchanged cells whose dropped weights `changed` read, and those that these read."""
        found: set[str] = set()
        queue = list(changed)
        while queue:
            more = self._missing(self._stages[queue.pop()]) - set(changed) - found
            found |= more
            queue += more
        return found

    def _restore(self, stage: "Stage") -> bool:
        """Remove the outs and bring them back from the run-cache; whether it has them."""
        from dvc.stage.cache import RunCacheNotFoundError

        stage.remove_outs(ignore_remove=False, force=False)
        try:
            self.repo.stage_cache.restore(stage)
        except RunCacheNotFoundError:
            return False
        self._keep(stage)
        for out in stage.outs:  # before the first that reads them
            path = Path(os.path.relpath(out.fs_path, self.repo.root_dir))
            verified.hold(path, dvc_objects.Out(str(out.hash_info.value), self._names[id(stage)]))
        return True

    def _keep(self, stage: "Stage") -> None:
        stage.save()
        stage.commit()
        if self._names[id(stage)] in self._keep_what.readers:
            tidy()
        with self.repo.scm_context(quiet=True):
            stage.dump(update_pipeline=False)
