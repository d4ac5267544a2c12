"""What an experiment's arms wrote, as a folder data/ of links: to its own, or to DVC's cache.

So the report's statistics read it as they read an experiment that ran here.
"""

import contextlib
import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.commands.compare.found import Experiment
from pipeline.core import dvc_objects
from pipeline.core.errors import UserError
from pipeline.stage import run_records
from pipeline.stage.dataflow import RUN

EVALS = "evals.parquet"


class View:
    """Files of an experiment that are asked for, whole as its dvc.lock files say."""

    def __init__(self, found: Experiment) -> None:
        self.found = found
        with contextlib.chdir(found.folder):
            self._outs = dvc_objects.outs()

    def missing(self) -> dict[str, str]:
        """Arms of which a cell has not run, each with such a cell's folder."""
        return {
            arm: str(path.parent)
            for arm in self.found.arms
            for path in self._wanted(arm)
            if self._oid(path) is None
        }

    @contextmanager
    def opened(self, arms: list[str]) -> Iterator[None]:
        """Work in a folder where data/ has what these arms wrote. Raises UserError."""
        with TemporaryDirectory(prefix="omniopd-compare-") as folder:
            for path in {path for arm in arms for path in self._wanted(arm)}:
                place = Path(folder) / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(self._whole(path))
            with contextlib.chdir(folder):
                yield

    def file(self, path: Path) -> Path | None:
        """Where a file lies that some cell wrote; None where it is not here."""
        try:
            return None if self._oid(path) is None else self._whole(path)
        except UserError:
            return None

    def runs(self, arms: list[str]) -> Iterator[tuple[tuple[str, str, str], dict[str, Any]]]:
        """Stage, key and MD5 of each run.json of these arms, and its values. Raises UserError."""
        for arm in arms:
            for stage, key in self._cells(arm):
                path = run_records.folder(stage, key) / RUN
                values = json.loads(self._whole(path).read_text(encoding="utf-8"))
                yield (stage, key, str(self._oid(path))), values

    def _cells(self, arm: str) -> Iterator[tuple[str, str]]:
        """Stage and key of each but for the base student's."""
        for *_, cells in run_records.rounds({arm: self.found.arms[arm]}):
            yield from ((stage, key) for stage, key in cells.items() if "/" not in key)

    def _wanted(self, arm: str) -> Iterator[Path]:
        for stage, key in self._cells(arm):
            folder = run_records.folder(stage, key)
            yield folder / RUN
            if stage == "evaluate":
                yield folder / EVALS

    def _oid(self, path: Path) -> str | None:
        """MD5 of a file that some cell wrote; None where that has not run."""
        if out := self._outs.get(str(path)):
            return out.oid
        out = self._outs.get(str(path.parent))
        return None if out is None else self._listing(out.oid).get(path.name)

    @functools.cache  # noqa: B019 - a view lives as long as the command
    def _listing(self, oid: str) -> dict[str, str]:
        found = dvc_objects.listing(self.found.cache, oid)
        if found is None:
            raise UserError(self._absent(oid))
        return found

    def _whole(self, path: Path) -> Path:
        """Where the file lies, with the bytes that it should have."""
        oid = self._oid(path)
        assert oid is not None
        for place in (self.found.folder / path, dvc_objects.place(self.found.cache, oid)):
            if place.is_file() and dvc_objects.md5(place) == oid:
                return place
        raise UserError(self._absent(f"{path} ({oid})"))

    def _absent(self, what: str) -> str:
        return (
            f"compare {self.found.name}: found {what} neither in {self.found.folder} nor whole in "
            f"DVC's cache {self.found.cache}, wanted what its dvc.lock files name. Fetch it with "
            "`dvc fetch` (--all-commits of other revisions), or run that experiment."
        )
