"""The cell that a stage is handed: its resolved params, its paths, and where to say what it did."""

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.config.params import Params
from pipeline.core import yaml_files
from pipeline.core.dag_names import DAG, cell_file
from pipeline.core.errors import UserError, short, stop
from pipeline.core.files import replacing

REMEDY = "Run `omniopd plan`, which writes it again."
NAMED = re.compile(r"c[0-9a-f]{8}")  # a key that stands for a cell's params and inputs
# of classes that are blocks of params.yaml, or the keys that an objective adds
BLOCKS = ("pipeline.config.", "pipeline.method.objectives.")
DERIVED = ("code", "reads", "deps", "out")  # what else a cell's file says
HELD = "OMNIOPD_CELL"  # for a process of a stage: the cell that has no file in dag/
LOUD = ("httpx", "httpx2", "google_genai")  # a line for each request otherwise
INSIDE = re.compile(r"^data/(\w+)/(c[0-9a-f]{8}/\d[\w-]*)")  # of a step of a cell of stage steps
log = logging.getLogger("omniopd")
M = TypeVar("M", bound=Params)


def arguments(stage: str, *inputs: str) -> argparse.Namespace:
    """Command line of a stage: --cell KEY. What it says beside that is tried instead of the cell's.

    A path for each of `inputs`, None for one with a question mark that the cell does not read, and
    `out`, the folder to write. Raises UserError unless the code that is about to run is what the
    cell's lock says.
    """
    parser = argparse.ArgumentParser(prog=f"omniopd stage {stage}")
    parser.add_argument("--cell", required=True, help="key of the cell: its file in dag/")
    for name in inputs:
        parser.add_argument(f"--{name.rstrip('?')}", type=Path, help="instead of the cell's")
    parser.add_argument("--out", type=Path, help="another folder for what the stage writes")
    args = parser.parse_args()
    check_code(stage, args.cell)
    _fill(args, stage, *inputs)
    return args


def _fill(args: argparse.Namespace, stage: str, *inputs: str) -> None:
    """Take what the command line leaves out from the cell's file. Raises UserError."""
    content = cell(stage, args.cell)[1]
    known = {**(content.get("reads") or {}), "out": content.get("out")}
    for name in (*inputs, "out"):
        bare = name.rstrip("?")
        if getattr(args, bare) is None and isinstance(known.get(bare), str):
            setattr(args, bare, Path(place(known[bare])))
        if getattr(args, bare) is None and not name.endswith("?"):
            raise UserError(
                f"{where(stage, args.cell)}: found no path of {bare}, which {stage} needs. {REMEDY}"
            )


def check_code(stage: str, key: str) -> None:
    """Raise UserError unless the code of this process is what the lock of the cell says."""
    from pipeline.code_digest import guard, variants
    from pipeline.processes.fork_server import stage as alone

    if (stage, key) in _inside:  # of a step: the cell of its steps has the lock
        stage, key = "steps", key.partition("/")[0]
    group, content = cell(stage, key)
    try:
        variant = variants.of(group, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where(stage, key)}: found {short(content, 200)}, wanted a cell as `omniopd plan` "
            f"writes it ({error!r}). Run `omniopd plan`."
        ) from error
    if (stage, key) not in _inside and NAMED.fullmatch(key):
        own = {name: value for name, value in content.items() if name not in DERIVED}
        if name_of(group, own) != key:
            raise UserError(
                f"{where(stage, key)}: found other params or inputs than those that it is named "
                f"after, wanted the file as `omniopd plan` writes it. {REMEDY}"
            )
    guard.check(variant, confine=alone(sys.orig_argv))


def params(stage: str, key: str, model: type[M]) -> M:
    """The cell's resolved params, validated. Raises UserError."""
    group, content = cell(stage, key)
    try:
        made = model.model_validate_json(json.dumps(content["params"]))
    except (ValidationError, KeyError, TypeError) as error:
        raise UserError(
            f"{where(stage, key)}: {group} is not what this code expects: found "
            f"{short(content, 200)}, wanted params of {stage} ({error}). Run `omniopd plan`."
        ) from error
    for name in _unset(made):
        raise UserError(
            f"{where(stage, key)}: found no {name} among its params, wanted every setting: a "
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
            if owner.__module__.startswith(BLOCKS) and field.get_default() is not None:
                yield name


def cell(stage: str, key: str) -> tuple[str, dict[str, Any]]:
    """The group of a cell, and what its file says besides. Raises UserError."""
    if (stage, key) in _inside:
        return _inside[stage, key]
    if not DAG.is_dir():
        raise UserError(f"{DAG}: not found. Run `omniopd plan` in the project's folder.")
    path = file(stage, key)
    content = {} if path is None else yaml_files.made(path, REMEDY)
    group = content.pop("group", None)
    if path is not None and not isinstance(group, str):
        raise UserError(f"{path}: found group {short(group)}, wanted that of a cell. {REMEDY}")
    if group is None or group.partition("-")[0] != stage:
        raise UserError(
            f"{DAG}: has no {stage} cell {key!r}, wanted one of its cells. Run `omniopd plan`, "
            "then `dvc repro`."
        )
    return group, content


def name_of(group: str, content: dict[str, Any]) -> str:
    """The name of a cell of these params and inputs."""
    canonical = json.dumps([group, content], sort_keys=True)
    return "c" + hashlib.sha256(canonical.encode()).hexdigest()[:8]


def file(stage: str, key: str) -> Path | None:
    """Where a cell's file lies; None where there is none."""
    path = cell_file(stage, key)
    return path if re.fullmatch(r"\w+", key) and path.is_file() else None


def where(stage: str, key: str) -> str:
    """How an error calls a cell."""
    return f"{stage} {key}" if (stage, key) in _inside else str(file(stage, key))


def hold(stage: str, key: str, group: str, content: dict[str, Any]) -> None:
    """Let `cell` find a cell that has no file but is a part of the running cell."""
    _inside[stage, key] = group, content


def handed(stage: str, key: str) -> dict[str, str]:
    """The environment that another process of a held cell needs."""
    found = _inside.get((stage, key))
    return {} if found is None else {HELD: json.dumps([stage, key, *found])}


def _held() -> dict[tuple[str, str], tuple[str, dict[str, Any]]]:
    if HELD not in os.environ:
        return {}
    stage, key, group, content = json.loads(os.environ[HELD])
    return {(stage, key): (group, content)}


def place(path: str) -> str:
    """Where a path of a cell lies: that of a step inside a cell is kept among what it would go
    on from, .resume/inside-KEY/STEP/STAGE; any other is itself."""
    return INSIDE.sub(r".resume/inside-\2/\1", path)


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
