"""What a stage is handed: its cell's resolved params, its paths, and where to say what it did."""

import argparse
import functools
import hashlib
import inspect
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import yaml_files
from pipeline.errors import UserError, short, stop
from pipeline.params import Params, Runtime, explained
from pipeline.tables import replacing

PLAN = Path("plan.yaml")
PARAMS = Path("params.yaml")
REMEDY = "Run `omniopd plan`, which writes it again."
GROUP = re.compile(r"^  (\S+):\n((?: {4}.*\n|\n)+)", re.M)  # of plan.yaml, with its lines
HELD = "OMNIOPD_CELL"  # for a process of a stage: the cell that no line of plan.yaml has
LOUD = ("httpx", "httpx2", "google_genai")  # a line for each request otherwise
INSIDE = re.compile(r"^data/(\w+)/(c[0-9a-f]{8}/\d[\w-]*)")  # of a step of a cell of stage steps
log = logging.getLogger("omniopd")
M = TypeVar("M", bound=Params)
V = TypeVar("V")


def arguments(stage: str, *inputs: str) -> argparse.Namespace:
    """Command line of a stage: --cell KEY, a path for each of `inputs`, --out FOLDER.

    Raises UserError unless the code that is about to run is what the cell's lock says.
    """
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage}")
    parser.add_argument("--cell", required=True, help="key of the cell in plan.yaml")
    for name in inputs:
        parser.add_argument(f"--{name.rstrip('?')}", type=Path, required=not name.endswith("?"))
    parser.add_argument("--out", type=Path, required=True, help="folder for what the stage writes")
    found = parser.parse_args()
    check_code(stage, found.cell)
    return found


def check_code(stage: str, key: str) -> None:
    """Raise UserError unless the code of this process is what the lock of the cell says."""
    from pipeline.behaviour import guard, variants
    from pipeline.forkserver import stage as alone

    if (stage, key) in _inside:  # of a step: the cell of its steps has the lock
        stage, key = "steps", key.partition("/")[0]
    group, found = cell(stage, key)
    try:
        variant = variants.of(group, found)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{PLAN}: {group}.{key}: found {short(found, 200)}, wanted a cell as `omniopd plan` "
            f"writes it ({error!r}). Run `omniopd plan`."
        ) from error
    guard.check(variant, confine=alone(sys.orig_argv))


def params(stage: str, key: str, model: type[M]) -> M:
    """The cell's resolved params from plan.yaml, validated. Raises UserError."""
    group, found = cell(stage, key)
    try:
        made = model.model_validate_json(json.dumps(found["params"]))
    except (ValidationError, KeyError, TypeError) as error:
        raise UserError(
            f"{PLAN}: {group}.{key} is not what this code expects: found {short(found, 200)}, "
            f"wanted params of {stage} ({error}). Run `omniopd plan`."
        ) from error
    for name in _unset(made):
        raise UserError(
            f"{PLAN}: {group}.{key}: found no {name} among its params, wanted every setting: a "
            "default may be another one in other code. Run `omniopd plan`."
        )
    return made


def _unset(made: Any) -> Iterator[str]:
    """Settings of blocks that a cell leaves to a default. A stage's own are part of its code."""
    if isinstance(made, tuple | list):
        for one in made:
            yield from _unset(one)
    elif isinstance(made, dict):
        yield from _unset(list(made.values()))
    elif isinstance(made, BaseModel):
        for name, field in type(made).model_fields.items():
            if name in made.model_fields_set:
                yield from _unset(getattr(made, name))
                continue
            kinds = type(made).__mro__
            owner = next(x for x in kinds if name in inspect.get_annotations(x))
            if owner.__module__ == Params.__module__ and field.get_default() is not None:
                yield name


def cell(stage: str, key: str) -> tuple[str, dict[str, Any]]:
    """The group of a cell in plan.yaml, and what stands there of it. Raises UserError."""
    if (stage, key) in _inside:
        return _inside[stage, key]
    if not PLAN.is_file():
        raise UserError(f"{PLAN}: not found. Run `omniopd plan` in the project's folder.")
    found = _cell(yaml_files.text(PLAN), stage, key)
    if found is None:
        raise UserError(
            f"{PLAN}: has no {stage} cell {key!r}, wanted one of its cells. Run `omniopd plan`, "
            "then `dvc repro`."
        )
    return found


def hold(stage: str, key: str, group: str, content: dict[str, Any]) -> None:
    """Let `cell` find a cell that is no line of plan.yaml but a part of the running cell."""
    _inside[stage, key] = group, content


def handed(stage: str, key: str) -> dict[str, str]:
    """What a process that runs a held cell, too, needs in its environment."""
    found = _inside.get((stage, key))
    return {} if found is None else {HELD: json.dumps([stage, key, *found])}


def _held() -> dict[tuple[str, str], tuple[str, dict[str, Any]]]:
    if HELD not in os.environ:
        return {}
    stage, key, group, content = json.loads(os.environ[HELD])
    return {(stage, key): (group, content)}


def place(path: str) -> str:
    """Where a path of dvc.yaml lies: that of a step inside a cell is kept among what it would go
    on from, .resume/inside-KEY/STEP/STAGE; any other is itself."""
    return INSIDE.sub(r".resume/inside-\2/\1", path)


def _cell(text: str, stage: str, key: str) -> tuple[str, dict[str, Any]] | None:
    """Group and content of a cell of plan.yaml.

    Only the cell's own lines are handed to YAML: the plan of a study is a thousand times longer.
    Where its layout is not that of `omniopd plan`, all of it is.
    """
    yaml = YAML(typ="safe")
    for group, lines in GROUP.findall(text):
        if group.split("-")[0] == stage:
            for block in re.findall(rf"^    {re.escape(key)}:\n((?: {{6}}.*\n|\n)+)", lines, re.M):
                with suppress(YAMLError):  # broken: then so is the whole
                    return group, yaml.load(block)
    groups = yaml_files.mapping(text, str(PLAN), REMEDY).get("cells")
    for group, cells in groups.items() if isinstance(groups, dict) else ():
        if group.split("-")[0] == stage and isinstance(cells, dict) and key in cells:
            return group, cells[key]
    return None


def untracked(block: str) -> dict[str, Any]:
    """A block of params.yaml whose settings change how a stage works, never what it computes."""
    if not PARAMS.is_file():
        return {}
    found = _params(yaml_files.text(PARAMS)).get(block) or {}
    if not isinstance(found, dict):
        raise UserError(
            f"{PARAMS}: {block}: found {short(found)}, wanted its settings. Correct it."
        )
    return dict(found)


@functools.lru_cache(1)
def _params(text: str) -> dict[str, Any]:
    """params.yaml; a stage asks for several of its blocks, a cell of steps for many."""
    found = yaml_files.parsed(text, str(PARAMS))
    if not isinstance(found, dict):
        raise UserError(f"{PARAMS}: found {short(found)}, wanted blocks of settings. Restore it.")
    return found


def free(block: str, model: type[M]) -> M:
    """Those settings of a block that `model` names. Raises UserError for a wrong one."""
    found = untracked(block)
    values = {name: found[name] for name in model.model_fields if name in found}
    return parsed(block, TypeAdapter(model), values)


def parsed(block: str, model: TypeAdapter[V], values: dict[str, Any]) -> V:
    """`values` of params.yaml as `model`. Raises UserError naming the key."""
    try:
        return model.validate_json(json.dumps(values))
    except ValidationError as error:
        raise UserError(f"{PARAMS}: {explained(error.errors()[0], block)}") from error


def runtime() -> Runtime:
    return free("runtime", Runtime)


def project() -> str:
    """Name of the experiment in this folder: what the ledger adds its purchases up under."""
    return hashlib.sha256(str(Path.cwd().resolve()).encode()).hexdigest()[:16]


class Run:
    """Counts and seconds of one execution; they go to run.json, which only report reads."""

    def __init__(self) -> None:
        self.rows_in = 0
        self.rows_out = 0
        self.earlier_seconds = 0.0  # of killed runs of the cell that this one went on from
        self.counts: dict[str, float | int | str] = {}


@contextmanager
def running(stage: str, args: argparse.Namespace) -> Iterator[Run]:
    """Time the block, write OUT/run.json, log one line with rows in, rows out and the rate."""
    start = time.perf_counter()
    run = Run()
    yield run
    seconds = time.perf_counter() - start + run.earlier_seconds
    rate = run.rows_out / max(seconds, 1e-9)
    values = {
        "stage": stage,
        "cell": args.cell,
        "rows_in": run.rows_in,
        "rows_out": run.rows_out,
        "seconds": round(seconds, 3),
        "start_seconds": round(start - _started, 3),
        **run.counts,
    }
    write_text(args.out / "run.json", json.dumps(values, indent=1, allow_nan=False) + "\n")
    counts = "".join(f", {name} {value}" for name, value in run.counts.items())
    log.info(
        f"{stage} {args.cell}: {run.rows_in} rows in, {run.rows_out} rows out, "
        f"{seconds:.1f} s, {rate:.0f} rows/s{counts}"
    )


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def log_to_stderr() -> None:
    """Our own lines, and of the libraries only warnings."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)


def entry(main: Callable[[], None]) -> Callable[[], None]:
    """Make bad input a one-paragraph message on stderr and exit status `errors.STATUS`."""

    @functools.wraps(main)
    def guarded() -> None:
        log_to_stderr()
        try:
            main()
        except (UserError, OSError) as error:
            stop(error)

    return guarded


_started = time.perf_counter()
_inside = _held()
keep_frozen = False  # whether policies that nobody trains stay loaded for the stages that follow
