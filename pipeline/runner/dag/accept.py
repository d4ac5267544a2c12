"""`omniopd verify-code`: accept cells of changed code without running them, where bytes are equal.

One cell of each variant whose code changed reruns, in a folder of its own that shows it what
the cell reads. Nothing in data/ is written and nothing is bought: teach replays the answers that
the store has. Where what it wrote has the bytes that dvc.lock says, the variant's other cells are
taken to be what they would be, and dvc.lock is told so; where not, they run with `dvc repro`.
"""

import json
import logging
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from ruamel.yaml import YAML

from pipeline.code_digest import files, locks
from pipeline.config import params_file
from pipeline.core import dvc_objects, yaml_files
from pipeline.core.dag_names import cell_of
from pipeline.core.errors import UserError
from pipeline.judgments.store import url
from pipeline.processes import subprocesses
from pipeline.runner.dag import plan_files, why
from pipeline.stage import dataflow, resume

FOLDER = Path(".verify-code")
TIMES = {"run.json"}  # files of a result that hold how long it took
WRITTEN_BY = "transformers_version"  # key of a checkpoint's JSON files: the version that wrote them
UNCOMPARED = {"report"}  # variants that write times into what they make, and run in seconds
# of the project's folder what a cell in scratch has of its own, or has nothing to do with
APART = {"data", "params.yaml", ".git", ".prefect", ".resume", ".spool", str(FOLDER)}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one variant."""

    variant: str
    cells: tuple[str, ...]  # that ran with its code of before
    tried: str  # the one that reran; empty for none
    equal: bool
    said: str


def verify(found: dict[str, Any], stages: Mapping[str, Any]) -> Iterator[Outcome]:
    """Try a cell of each changed variant of the plan; dvc.lock follows. Raises UserError, Stopped.

    A cell whose inputs changed, too, is left for `dvc repro`.
    """
    changed = defaultdict[str, list[str]](list)
    for one in why.stale(found, stages).values():
        if one.code is not False and not one.inputs:
            changed[one.variant].append(one.cell)
    if not changed:
        return
    project = _Project()
    for variant, waiting in sorted(changed.items()):
        names = project.same_but_for_code(waiting)
        tried = None if variant in UNCOMPARED else _first(names)
        if tried is None:
            reason = "what its cells read is not here (`dvc checkout` brings it back)"
            if variant in UNCOMPARED:
                reason = "runs in seconds"
            yield Outcome(variant, tuple(waiting), "", False, f"{reason}: left for `dvc repro`")
            continue
        start = time.monotonic()
        said = _differs(stages[tried], tried)
        if not said:
            project.accept(names)
        took = f"{time.monotonic() - start:.0f} s"
        outcome = f"{said}; they rerun" if said else f"equal bytes: {len(names)} accepted"
        yield Outcome(variant, tuple(waiting), tried, not said, f"{outcome} ({took})")


class _Project:
    """DVC's view of the project in the current directory."""

    def __init__(self) -> None:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        self._fault = DvcException
        logging.getLogger("dvc").setLevel(logging.WARNING)
        try:
            self._repo: Repo = Repo(_wait_for_lock=True)
            self._stages = {cell_of(one.addressing): one for one in self._repo.index.stages}
        except DvcException as error:
            raise UserError(f"DVC cannot read the project: {error}") from error

    def same_but_for_code(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that dvc.lock knows with this command, these inputs and these outs."""
        found = []
        for name in names:
            stage = self._stages[name]
            inputs = [dep for dep in stage.deps if not _is_code(dep.def_path)]
            if not stage.cmd_changed and all(one.hash_info for one in (*inputs, *stage.outs)):
                found.append(name)
        return found

    def accept(self, names: Sequence[str]) -> None:
        """Let dvc.lock and the run-cache say that cells ran with the code that is here now.

        Nothing else of them changes. Raises UserError.
        """
        stages = [self._stages[name] for name in names]
        try:
            with self._repo.lock, self._repo.scm_context(quiet=True):
                for dep in (dep for stage in stages for dep in stage.deps):
                    if _is_code(dep.def_path):
                        dep.save()
                for stage in stages:
                    stage.dump(update_pipeline=False)
                    with suppress(self._fault, OSError):  # a checkpoint of it was dropped
                        self._repo.stage_cache.save(stage)
        except self._fault as error:
            raise UserError(f"dvc.lock could not be written: {error}. Rerun.") from error


def _is_code(path: str) -> bool:
    """Whether a dependency is on code: a lock, or as before there were locks a file."""
    return path.split("/")[0] in (*files.OWN, str(locks.FOLDER))


def _first(names: Sequence[str]) -> str | None:
    """The cell that took least, of those whose inputs are there."""
    ready = [x for x in names if all(path.exists() for path in _inputs(x))]
    return min(ready, key=_seconds, default=None)


def _seconds(name: str) -> float:
    group, _, key = name.partition("@")
    path = Path("data") / group.partition("-")[0] / key / "run.json"
    if not path.is_file():
        return float("inf")
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"])


def _inputs(name: str) -> list[Path]:
    group, _, key = name.partition("@")
    deps = resume.deps(group.partition("-")[0], key)
    return [path for path in deps if path.parts[0] != str(locks.FOLDER)]


def _differs(stage: Mapping[str, Any], name: str) -> str:
    """Run a cell in scratch; in words how it is not what dvc.lock says, empty where it is."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    try:
        _show(name)
        if status := _run(name):
            return f"{name} ended with status {status}"
        for out in stage["outs"]:
            if said := _unequal(out):
                return said
        return ""
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)


def _show(name: str) -> None:
    """Links to the project and to all that was made but by the cell itself, and params.yaml with
    teach.replay, which buys nothing."""
    key = name.partition("@")[2]
    made = [x for x in Path("data").glob("*/*") if x.is_dir() and x.name != key]
    made = [x for x in made if x.parent.name not in ("arms", "report")]
    for path in (*(x for x in Path().iterdir() if x.name not in APART), *made, *_inputs(name)):
        place = FOLDER / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(path.resolve())
    values = yaml_files.parsed(yaml_files.text(params_file.PARAMS), str(params_file.PARAMS))
    values.setdefault("teach", {})["replay"] = True
    yaml = YAML(typ="safe", pure=True)
    with (FOLDER / params_file.PARAMS).open("w", encoding="utf-8") as file:
        yaml.dump(values, file)


def _run(name: str) -> int:
    """The status of the cell's stage. Raises Stopped."""
    group, _, key = name.partition("@")
    path = os.pathsep.join([str(files.root()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**plan_files.environment(), "PYTHONPATH": path, "JUDGMENTS_URL": _store()}
    command = ["omniopd", "stage", dataflow.stage(group), "--cell", key]
    return subprocesses.status(command, FOLDER, environment, "what was accepted stays so.")


def _store() -> str:
    """Where the store is, as seen from another folder."""
    found = sa.engine.make_url(url())
    if found.get_backend_name() == "sqlite" and found.database:
        found = found.set(database=str(Path(found.database).resolve()))
    return found.render_as_string(hide_password=False)


def _unequal(out: Mapping[str, Any]) -> str:
    """Say how an out differs from dvc.lock; empty where it does not, or holds times."""
    path = FOLDER / out["path"]
    if not path.exists():
        return f"{out['path']} was not written"
    if path.is_dir():
        wanted = dvc_objects.listing(dvc_objects.cache(), out["md5"])
        if wanted is None:
            return f"{out['path']} is not whole in DVC's cache, so it cannot be compared"
        made = {x["relpath"]: x["md5"] for x in json.loads(dvc_objects.listed(path))}
        names = sorted(name for name in {**made, **wanted} if name not in TIMES)
        other = [name for name in names if made.get(name) != wanted.get(name)]
        first = next((name for name in other if not _rewritten(path / name, wanted.get(name))), "")
        return f"{out['path']}/{first} has other bytes" if first else ""
    equal = path.name in TIMES or dvc_objects.md5(path) == out["md5"]
    return "" if equal else f"{out['path']} has other bytes"


def _rewritten(made: Path, wanted: str | None) -> bool:
    """Whether a file of a checkpoint differs from that object by who wrote it alone."""
    if wanted is None or made.suffix != ".json" or not made.is_file():
        return False
    kept = dvc_objects.place(dvc_objects.cache(), wanted)
    return kept.is_file() and same_but_for_writer(made.read_bytes(), kept.read_bytes())


def same_but_for_writer(one: bytes, other: bytes) -> bool:
    """Whether two JSON objects are equal but for the version of the library that wrote them."""
    try:
        made = [json.loads(text) for text in (one, other)]
    except ValueError:
        return False
    if not all(isinstance(x, dict) and WRITTEN_BY in x for x in made):
        return False
    left, right = ({k: v for k, v in x.items() if k != WRITTEN_BY} for x in made)
    return json.dumps(left) == json.dumps(right)  # the order of keys counts, as do 1 and 1.0
