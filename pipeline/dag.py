"""The plan on disk and in DVC: write it, check it, prune what it no longer has, link the arms."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline import checkpoints, experiment, keeping, objects, plan, preflight, resume, yaml_files
from pipeline.behaviour import history, locks, variants
from pipeline.cells import PLAN, log, write_text
from pipeline.errors import UserError, short
from pipeline.tables import replacing

DATA = Path("data")
LOCK = Path("dvc.lock")
OK = DATA / "plan.ok"
LOCK_REMEDY = (
    "Restore it with `git checkout dvc.lock`, or remove it: what DVC's cache has is not run again."
)
HEADER = "# Made by `omniopd plan` from params.yaml. Commit it; do not edit it.\n"


def environment() -> dict[str, str]:
    """The environment of every process we start: this virtual environment first on PATH."""
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}"}


def dvc(*arguments: str) -> list[str]:
    """A DVC command line that needs no activated environment."""
    return [sys.executable, "-m", "dvc", *arguments]


def expanded() -> dict[str, Any]:
    """The plan that params.yaml means now."""
    return plan.expand(experiment.load())


def current() -> dict[str, Any]:
    """The plan in plan.yaml. Raises UserError if it is stale."""
    check()
    return dict(YAML(typ="safe").load(yaml_files.text(PLAN)))


def check(buying: bool = False) -> dict[str, Any]:
    """The plan. Raises UserError unless plan.yaml is what params.yaml means.

    `buying` as in `write`.
    """
    found = PLAN.read_bytes() if PLAN.is_file() else None
    file = experiment.load()
    wanted = plan.expand(file)
    if found != _text(wanted).encode():
        state = "does not exist" if found is None else "is not what params.yaml means now"
        raise UserError(
            f"{PLAN} {state}, wanted the plan that it means. Run `omniopd plan`, then `dvc repro`."
        )
    if buying:
        preflight.check(file, wanted, lambda: locked().get("stages") or {}, buying)
    return wanted


def write(buying: bool = False) -> dict[str, Any]:
    """Expand params.yaml, write plan.yaml and the locks of its code, prune, link.

    Nothing is written if DVC disagrees.

    `buying`: what the plan needs of its user before answers are bought has to be there, too.
    """
    file, lock = experiment.load(), locked()
    wanted = plan.expand(file)
    preflight.check(file, wanted, lambda: lock.get("stages") or {}, buying)
    text, before = _text(wanted).encode(), PLAN.read_bytes() if PLAN.is_file() else None
    if text != before:
        _put(text)
        try:
            _same_as_dvc(wanted)
        except UserError:
            PLAN.unlink() if before is None else _put(before)
            raise
    replaced = locks.write(variants.of_plan(wanted))
    history.keep(replaced.values(), lock.get("stages") or {})
    prune(wanted, lock)
    resume.forget(name.partition("@")[2] for name in plan.upstream(wanted))
    link(wanted)
    keeping.tidy()
    _folders()
    return wanted


def rerun(wanted: dict[str, Any]) -> list[str]:
    """Which cells DVC runs again because of code, why, and what that buys; a line each."""
    from pipeline.behaviour import why

    def bill(names: set[str]) -> str:
        from pipeline import spending

        return spending.again(wanted, names)

    return why.lines(wanted, locked().get("stages") or {}, bill)


def _put(content: bytes) -> None:
    with replacing(PLAN) as temporary:
        temporary.write_bytes(content)


def _folders() -> None:
    """A folder for each stage: report depends on them, also where no arm has such a cell."""
    for group in plan.GROUPS:
        (DATA / group.partition("-")[0]).mkdir(parents=True, exist_ok=True)


def _text(content: dict[str, Any]) -> str:
    from io import StringIO

    stream = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False  # type: ignore
    yaml.representer.ignore_aliases = lambda *_: True
    yaml.dump(content, stream)
    return HEADER + stream.getvalue()


def _same_as_dvc(wanted: dict[str, Any]) -> None:
    """DVC drops a key that reads as a number without a word: compare what it sees."""
    seen = set(_told("stage", "list", "--name-only").split()) - {"plan"}
    names = set(plan.upstream(wanted))
    if seen != names:
        raise UserError(
            f"DVC sees {len(seen)} cells and the plan has {len(names)}; only in the plan: "
            f"{sorted(names - seen)[:3]}, only in DVC: {sorted(seen - names)[:3]}. "
            "Compare the groups in dvc.yaml with those of plan.yaml."
        )


def locked() -> dict[str, Any]:
    """dvc.lock, or nothing where there is none. Raises UserError unless it is as DVC writes it."""
    return _locked(yaml_files.text(LOCK)) if LOCK.is_file() else {}


@functools.lru_cache(1)
def _locked(text: str) -> dict[str, Any]:
    """By its text, as it is asked for twice: at two thousand cells it takes half a minute."""
    found = yaml_files.mapping(text, str(LOCK), LOCK_REMEDY)
    stages = found.get("stages") or {}
    if found.get("schema") != "2.0" or not isinstance(stages, dict):
        shown = short({name: found[name] for name in list(found)[:2]})
        raise UserError(f"{LOCK}: found {shown}, wanted schema '2.0' with stages. {LOCK_REMEDY}")
    for name, stage in stages.items():
        outs = stage.get("outs", []) if isinstance(stage, dict) else None
        if not isinstance(outs, list) or not all(map(_is_out, outs)):
            wanted = "outs with md5 and a path inside the project"
            shown = short(stage if outs is None else outs, 200)
            raise UserError(f"{LOCK}: {name}: found {shown}, wanted {wanted}. {LOCK_REMEDY}")
    return found


def _is_out(found: Any) -> bool:
    """As DVC writes one; `prune` may remove what it names, so never outside the project."""
    if not isinstance(found, dict) or {str} != {type(found.get("path")), type(found.get("md5"))}:
        return False
    path = Path(found["path"])
    return not path.is_absolute() and ".." not in path.parts


def _told(*arguments: str) -> str:
    """What a command of DVC prints. Raises UserError with its own words where it fails."""
    command = dvc(*arguments)
    done = subprocess.run(command, env=environment(), capture_output=True, encoding="utf-8")
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).rstrip(".")
        raise UserError(
            f"`dvc {' '.join(arguments)}` failed: {said}, wanted a project that DVC can read. Mend "
            "what it names, or run this in the project's folder."
        )
    return done.stdout


def prune(wanted: dict[str, Any], lock: dict[str, Any]) -> None:
    """Drop cells that the plan lacks from dvc.lock and data/, if DVC's cache holds their outs.

    A cell that comes back is restored from there. What the cache lacks is named and left alone.
    """
    stages = dict(lock.get("stages") or {})
    names = {"plan", *plan.upstream(wanted)}
    left = []
    for name in [name for name in stages if name not in names]:
        outs = stages[name].get("outs", [])
        if not all(_cached(out["md5"]) or _dropped(Path(out["path"])) for out in outs):
            left.append(name)
            continue
        del stages[name]
        for out in outs:
            if name.partition("@")[0] != "report":
                _remove(Path(out["path"]))
    if left:
        log.warning(f"kept {len(left)} old cells whose outs the cache lacks, as {left[0]}")
    if len(stages) != len(lock.get("stages") or {}):
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        with replacing(LOCK) as temporary:
            yaml.dump({**lock, "stages": stages}, temporary)


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
    return objects.configured()


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
    for arm, seeds in plan.named(wanted).items():
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
    write_text(OK, "plan.yaml is what params.yaml means\n")
