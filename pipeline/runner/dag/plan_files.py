"""The plan on disk and in DVC: write it, check it, move or prune what ran, link the arms."""

import functools
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.code_digest import equal, history, locks, variants
from pipeline.core import dag_names, dvc_objects, extensions, yaml_files
from pipeline.core.errors import UserError
from pipeline.core.files import replacing
from pipeline.engines import checkpoints
from pipeline.plan import expand, experiment
from pipeline.runner import exp_stale, preflight, retention
from pipeline.runner.dag import dag_files, lock_files
from pipeline.runner.sharing import clones
from pipeline.stage import dataflow, resume
from pipeline.stage.cells import log, write_text

DATA = Path("data")
OK = dag_files.OK
BY_HAND = Path("dvc.yaml")
PLAN = Path("plan.yaml")  # of a project of the time before there was a file for each cell


def environment() -> dict[str, str]:
    """The environment of every process we start: this virtual environment first on PATH."""
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}"}


def dvc(*arguments: str) -> list[str]:
    """A DVC command line that needs no activated environment."""
    return [sys.executable, "-P", "-m", "dvc", *arguments]


def expanded() -> dict[str, Any]:
    """The plan that params.yaml means now."""
    return expand.expand(experiment.load())


def current() -> dict[str, Any]:
    """The plan. Raises UserError if dag/ is stale."""
    return check()


def check(buying: bool = False) -> dict[str, Any]:
    """The plan. Raises UserError unless dag/ is what params.yaml means.

    `buying` as in `write`.
    """
    file = experiment.load()
    wanted = expand.expand(file)
    if said := _differs(dict(dag_files.texts(wanted))):
        if exp_stale.inside():
            raise exp_stale.error(said)
        raise UserError(
            f"{said}, wanted the plan that params.yaml means. Run `omniopd plan`, then `dvc repro`."
        )
    if buying:
        preflight.check(file, wanted, locked, buying)
    return wanted


def write(buying: bool = False) -> dict[str, Any]:
    """Expand params.yaml, write dag/ and the locks of its code, move or prune what ran, link.

    `buying`: what the plan needs of its user before answers are bought has to be there, too.
    """
    if not (Path(".dvc").is_dir() and BY_HAND.is_file()):
        raise UserError(
            f"{Path.cwd()}: found no .dvc and {BY_HAND}, wanted a project. Run this in the "
            "project's folder."
        )
    file, before = experiment.load(), lock_files.read()
    ran = lock_files.entries(before)
    wanted = expand.expand(file)
    preflight.check(file, wanted, lambda: ran, buying)
    _put(dict(dag_files.texts(wanted)))
    replaced = locks.write(variants.of_plan(wanted))
    history.keep(replaced.values(), ran)
    _settle(wanted, before)
    resume.forget(name.partition("@")[2] for name in expand.upstream(wanted))
    link(wanted)
    retention.tidy()
    _folders()
    clones.join(dvc_objects.cache().parents[1], Path.cwd())
    return wanted


def locked() -> dict[str, Any]:
    """DVC's entry of each cell, by its name. Raises UserError as `lock_files.read` does."""
    return lock_files.entries(lock_files.read())


def rerun(wanted: dict[str, Any], bill: Callable[[set[str]], str]) -> list[str]:
    """Say which cells DVC reruns for code, why, and what that buys (`bill`); a line each."""
    from pipeline.runner.dag import why

    return why.lines(wanted, locked(), bill)


def _differs(texts: dict[Path, str]) -> str:
    """How dag/ is not `texts`, in words; empty where it is."""
    for path, text in texts.items():
        if not path.is_file():
            return f"{path} does not exist"
        if path.read_bytes() != text.encode():
            return f"{path} is not what params.yaml means now"
    left = set(dag_names.there()) - set(texts)
    return f"{min(left)} is of another plan" if left else ""


def _put(texts: dict[Path, str]) -> None:
    """Bring dag/ to `texts`: files that are other ones are written, others are removed."""
    for path, text in texts.items():
        if not path.is_file() or path.read_bytes() != text.encode():
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    for path in set(dag_names.there()) - set(texts):
        path.unlink()
    if PLAN.is_file() and PLAN.read_bytes().startswith(dag_files.HEADER.encode()):
        PLAN.unlink()  # of the time when all cells stood in one file


def _folders() -> None:
    """A folder for each stage, which report depends on, also where no arm has such a cell; and the
    one that stage plan does, also where git has not kept it as it is empty."""
    Path(extensions.FOLDER).mkdir(exist_ok=True)
    for group in expand.GROUPS:
        (DATA / group.partition("-")[0]).mkdir(parents=True, exist_ok=True)


def _settle(wanted: dict[str, Any], before: lock_files.Locks) -> None:
    """Move what DVC knows of the plan's cells to where their stages lie now, and prune the rest."""
    folders, by_hand = dag_files.folders(wanted), _by_hand()
    after, new = _placed(wanted, folders, by_hand, before)
    left = []
    for path, own in before.items():
        here = by_hand if path == Path(dag_names.LOCK) else {}
        for name in (name for name in own if dag_names.cell_name(name) not in folders):
            if name not in here and pruned(name, own[name]):
                new.append(own[name])
                continue
            after[path][name] = own[name]
            left += [] if name in here else [name]
    if left:
        log.warning(f"kept {len(left)} old cells whose outs the cache lacks, as {left[0]}")
    if new:  # before the others go: it is found there if it comes back
        lock_files.remember(_cache_folder(), new)
    lock_files.write(_sorted(before), _sorted(after))
    _tidy()


def _placed(
    wanted: dict[str, Any],
    folders: dict[str, Path],
    by_hand: dict[str, Any],
    before: lock_files.Locks,
) -> tuple[lock_files.Locks, list[lock_files.Entry]]:
    """DVC's entries of the plan's cells where their stages lie now; and those that changed because
    the place or the command did, or the code to what is known to do the same."""
    after: lock_files.Locks = {path: {} for path in before}
    ran, new = lock_files.entries(before), list[lock_files.Entry]()
    for cell, folder in folders.items():
        path, name = folder / dag_names.LOCK, dag_names.stage_name(cell)
        entry = before.get(path, {}).get(name)
        if cell in ran:
            own = by_hand[name] if folder == dag_names.ROOT else None
            stage = own or dag_files.stage(wanted, folder, cell)
            moved = entry is None or entry["cmd"] != stage["cmd"]
            now = _carried(stage, cell, ran[cell]) if moved else equal.accepted(ran[cell])
            if now is not None and (moved or now != entry):
                entry = now
                new.append(now)
        if entry:
            after.setdefault(path, {})[name] = entry
    return after, new


def _sorted(locks: lock_files.Locks) -> lock_files.Locks:
    return {path: {name: own[name] for name in sorted(own)} for path, own in locks.items()}


def _carried(stage: dict[str, Any], cell: str, entry: lock_files.Entry) -> lock_files.Entry | None:
    """DVC's entry of a cell, for its stage at another place or with another command."""
    group, _, key = cell.partition("@")
    own = dag_names.cell_file(dataflow.stage(group), key)
    known = {str(own): own.read_text(encoding="utf-8"), str(OK): lock_files.OK_TEXT}
    found = lock_files.carried(entry, stage, known, _cache_folder())
    return None if found is None else equal.accepted(found)


def _by_hand() -> dict[str, Any]:
    """The stages of dvc.yaml."""
    return dict(yaml_files.load(BY_HAND)["stages"])


def pruned(name: str, entry: lock_files.Entry) -> bool:
    """Whether a stage that the plan lacks goes, with what it wrote: DVC's cache holds it.

    A cell that comes back is restored from there. What the cache lacks is left alone.
    """
    outs = entry.get("outs", [])
    if not all(_cached(out["md5"]) or _dropped(Path(out["path"])) for out in outs):
        return False
    for out in outs:
        if dag_names.cell_name(name).partition("@")[0] != "report":
            _remove(Path(out["path"]))
    return True


def _tidy() -> None:
    """Remove folders of dag/ that no cell lies in any more."""
    for folder in (*dag_names.DAG.glob("*/*"), *dag_names.DAG.glob("*")):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _dropped(path: Path) -> bool:
    return (path.parent / checkpoints.NOTE).is_file() and not path.exists()


def _cached(md5: str) -> bool:
    found = _cache_folder() / md5[:2] / md5[2:]
    if not found.is_file():
        return False
    if not md5.endswith(".dir"):
        return True
    return all(_cached(entry["md5"]) for entry in json.loads(found.read_text(encoding="utf-8")))


@functools.cache
def _cache_folder() -> Path:
    return dvc_objects.configured()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if [left.name for left in path.parent.glob("*")] == [checkpoints.NOTE]:
        (path.parent / checkpoints.NOTE).unlink()
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def link(wanted: dict[str, Any]) -> None:
    """data/arms/ARM/seed-S/round-R/STAGE as links to the cells' folders, for people.

    A branch of experiment.branch is there as omniopd+CONTROL with the cells that it adds.
    """
    shutil.rmtree(DATA / "arms", ignore_errors=True)
    for arm, seeds in expand.named(wanted).items():
        for seed, rounds in seeds.items():
            for round_, stages in rounds.items():
                folder = DATA / "arms" / arm / seed / round_
                folder.mkdir(parents=True)
                for stage, key in stages.items():
                    target = key if "/" in key else f"data/{stage.partition('-')[0]}/{key}"
                    (folder / stage).symlink_to(Path("../../../../..") / target)


def mark(wanted: dict[str, Any]) -> None:
    """The out of stage `plan`: constant, so that a new plan reruns nothing by itself.

    Raises UserError unless the locks say what the code does.
    """
    locks.check(variants.of_plan(wanted).values())
    _folders()
    write_text(OK, lock_files.OK_TEXT)
