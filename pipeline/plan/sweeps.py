"""Sweeps: arms of the experiment once more at each point of a grid of values.

    sweep:
      metric-lr:
        {arms: [omniopd], values: {score.metric: [edit, exact], train.lr: [1.0e-4, 3.0e-4]}}

A point sets keys of the base blocks, as `omniopd exp run -S` does: an arm that sets a key itself
keeps its own value. An arm at a point is an arm like any other, called ARM-POINT, and is planned,
run and reported as one. One whose cells would be those of another, because it reads none of the
values that differ or because params.yaml has them already, is that other arm.
"""

import itertools
import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from pipeline.core.errors import UserError, refuse, short
from pipeline.plan import expand
from pipeline.plan.blocks import Experiment, Settings, Sweep, merge

# of problems, base student and evaluation an experiment has one: its arms are compared by them
BLOCKS = ("rollout", "forks", "teach", "score", "prior", "calibrate", "train")
LONGEST = 40  # characters of a point's name
Check = Callable[[Experiment, str, Settings], None]
Places = dict[str, dict[str, dict[str, str]]]  # sweep: point: arm: what it is called there


class Point(NamedTuple):
    """One of each key's values."""

    label: str
    values: dict[str, Any]  # by key with dots


def points(name: str, sweep: Sweep) -> list[Point]:
    """Every combination, the last key's values changing first. Raises UserError."""
    _check(name, sweep)
    combined = itertools.product(*sweep.values.values())
    grid = [dict(zip(sweep.values, one, strict=True)) for one in combined]
    labels = ["-".join(_slug(key, value) for key, value in point.items()) for point in grid]
    if len(set(labels)) < len(labels) or max(map(len, labels)) > LONGEST:
        labels = [f"{name}-{number}" for number in range(1, len(grid) + 1)]
    return [Point(label, values) for label, values in zip(labels, grid, strict=True)]


def unfolded(file: Experiment, check: Check) -> tuple[Experiment, Places]:
    """The experiment with the arms of its sweeps, and what each arm is called at each point.

    Raises UserError, as `check` does, of whatever makes no sound arm.
    """
    places: Places = {}
    defined = set(file.arms)
    for name, sweep in file.sweep.items():
        places[name] = {}
        for point in points(name, sweep):
            own = _at(file, name, sweep, point)
            trial = _with(file, own)
            for arm, (called, _) in own.items():
                check(trial, called, trial.arm(called))
                places[name][point.label] = places[name].get(point.label, {}) | {arm: called}
            file = file.model_copy(update={"arms": trial.arms})
    return _distinct(file, defined, places)


def _at(
    file: Experiment, name: str, sweep: Sweep, point: Point
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Of each arm of the sweep: its name and overrides at a point."""
    found = {}
    for arm in sweep.arms:
        overrides = merge(_nested(point.values), file.arms[arm])
        controlled = file.arm(arm).prior.controls
        if controlled in sweep.arms:
            block = overrides.get("prior") or {}
            overrides["prior"] = {**block, "controls": f"{controlled}-{point.label}"}
        called = f"{arm}-{point.label}"
        if file.arms.get(called, overrides) != overrides:
            refuse(
                f"sweep.{name}",
                f"a point that makes arm {called}",
                "a name that no other arm has",
                "Rename that arm, or give the sweep another name or other values.",
            )
        found[arm] = called, overrides
    return found


def _with(file: Experiment, own: dict[str, tuple[str, dict[str, Any]]]) -> Experiment:
    """The experiment with these arms defined and listed."""
    arms = {**file.arms, **dict(own.values())}
    listed = tuple(dict.fromkeys((*file.experiment.arms, *(called for called, _ in own.values()))))
    block = file.experiment.model_copy(update={"arms": listed})
    return file.model_copy(update={"arms": arms, "experiment": block})


def _distinct(
    file: Experiment, defined: Collection[str], places: Places
) -> tuple[Experiment, Places]:
    """List of the arms at points those whose cells no arm before them has.

    `defined`: arms that no sweep made.
    """
    small = {"rounds": 1, "seeds": file.experiment.seeds[:1], "steps_per_cell": 1}
    small |= {"branch": (), "match": None, "budget": None}
    block = file.experiment.model_copy(update=small)
    plan = expand.Plan(file.model_copy(update={"experiment": block}))
    seed, names, arms = file.experiment.seeds[0], dict[str, str](), dict(file.arms)
    for sweep in places.values():
        first: dict[str, str] = {}  # by arm and cells: what it is called
        for own in sweep.values():
            # whom an arm controls comes first: its name is a part of that arm's cells
            for arm in sorted(own, key=lambda arm: file.arm(arm).prior.controls is not None):
                called = own[arm]
                arms[called] = _renamed(arms[called], names)
                plan.experiment = plan.experiment.model_copy(update={"arms": arms})
                first.setdefault(f"{arm} {plan.arm(arm, seed)}", arm)
                own[arm] = first.setdefault(f"{arm} {plan.arm(called, seed)}", called)
                names[called] = own[arm]
    listed = tuple(dict.fromkeys((*file.experiment.arms, *names.values())))
    arms = {name: own for name, own in arms.items() if name in listed or name in defined}
    block = file.experiment.model_copy(update={"arms": listed})
    return file.model_copy(update={"experiment": block, "arms": arms}), places


def _renamed(overrides: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """With the arm that it controls under the name that this has."""
    controlled = (overrides.get("prior") or {}).get("controls")
    if controlled not in names:
        return overrides
    return {**overrides, "prior": {**overrides["prior"], "controls": names[controlled]}}


def _check(name: str, sweep: Sweep) -> None:
    where = f"sweep.{name}"
    for key, values in sweep.values.items():
        if key.partition(".")[0] not in BLOCKS or "." not in key:
            refuse(
                f"{where}.values",
                key,
                f"a key of {', '.join(BLOCKS)}, such as train.lr",
                "An experiment has one of everything else, by which its arms are compared: run "
                "`omniopd exp run -S` for each value, then `omniopd compare`.",
            )
        if not values or any(one in values[:i] for i, one in enumerate(values)):
            refuse(f"{where}.values.{key}", list(values), "each value once", "Correct the list.")
    if not sweep.values or not sweep.arms:
        refuse(where, "no key or no arm", "at least one of each", "Add one, or remove the sweep.")


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    """Keys with dots as blocks. Raises UserError where one is a part of another."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        *above, last = key.split(".")
        node = found
        for part in above:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"sweep: found {key} and a part of it, wanted one. Remove one.")
        node[last] = value
    return found


def _slug(key: str, value: Any) -> str:
    """A value in the name of a point: text as it is, anything else with its key before it."""
    if isinstance(value, str):
        return _plain(value.rpartition(".")[2])
    return f"{_plain(key.rpartition('.')[2])}-{_plain(_number(value))}"


def _number(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return "-".join(map(_number, value))
        case float():
            mantissa, _, power = f"{value:e}".partition("e")
            digits = mantissa.rstrip("0").rstrip(".")
            written = f"{value:g}"
            return written if "e" not in written and len(written) < 5 else f"{digits}e{int(power)}"
    return str(value) if isinstance(value, str | int) else short(value, LONGEST)


def _plain(text: str) -> str:
    """With letters, digits and dashes alone; a decimal point is a p."""
    dotted = re.sub(r"(?<=\d)\.(?=\d)", "p", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", dotted).strip("-") or "x"
