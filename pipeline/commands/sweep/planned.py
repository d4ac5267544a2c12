"""A sweep from its command line into params.yaml, described before anything is written."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import typer
from tabulate import tabulate

from pipeline.commands.exp import exp_run
from pipeline.commands.view import live
from pipeline.config import renamed, yaml_edit
from pipeline.core import yaml_files
from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment, sweeps
from pipeline.plan.blocks import PARAMS, Experiment
from pipeline.runner import flow
from pipeline.runner.dag import dag_files, plan_files

COMMENT = "arms once more at each combination: `omniopd sweep`"


class Planned(NamedTuple):
    """What params.yaml is to be, and what that means in words."""

    name: str
    text: str
    said: str


def plan(
    words: Sequence[str], seeds: int | None, name: str | None, arms: Sequence[str] | None
) -> Planned:
    """The sweep of a command line. Nothing is changed. Raises UserError."""
    values = dict(map(_values, words))
    if len(values) < len(words):
        raise UserError(f"sweep {' '.join(words)}: found a key twice, wanted it once. Join them.")
    name = name or "-".join(key.rpartition(".")[2].replace("_", "-") for key in values)
    text, before = yaml_files.text(PARAMS), experiment.read_yaml(PARAMS)
    said = f"{PARAMS} with sweep {' '.join(words)}"
    wanted = _seeded(before, seeds)
    block = {"arms": _arms(wanted, name, values, arms, said), "values": values}
    known = (before.get("sweep") or {}).get(name)
    if known is not None and known != block:
        raise UserError(
            f"sweep {name}: found one of that name in {PARAMS} with other arms or values, wanted "
            "the same or a new name. Choose another --name, or remove that one."
        )
    text = yaml_edit.edited(text, wanted) or text
    whole = {**wanted, "sweep": {**(wanted.get("sweep") or {}), name: block}}
    if known is None:
        text = yaml_edit.added(text, whole, "sweep", name, COMMENT) or text
    if yaml_files.parsed(text, str(PARAMS)) != whole:
        raise UserError(
            f"{PARAMS}: found a layout that takes more than a new line, wanted experiment.seeds "
            f"and entries of sweep on a line each. Write there `{name}: {block}` by hand."
        )
    file, places = experiment.swept(whole, said)
    return Planned(name, text, _said(file, name, places[name], before))


def run(found: Planned, parallel: int) -> None:
    """Write params.yaml, plan, and bring every cell up to date. Raises UserError."""
    with exp_run.planned(found.text):
        pass
    with live.shown(quiet=False):
        flow.run(parallel)
    typer.echo(f"`omniopd compare {found.name}` compares its points")


def _values(word: str) -> tuple[str, list[Any]]:
    """Key and values, by Hydra's grammar as `dvc exp run -S` has it. Raises UserError."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import to_hydra_overrides
    from hydra.core.override_parser.types import OverrideType
    from hydra.errors import HydraException

    try:
        (one,) = to_hydra_overrides([word.removeprefix(f"{PARAMS}:")])
        found = [*one.sweep_iterator()] if one.is_sweep_override() else [one.value()]
    except (DvcException, HydraException, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(
            f"sweep {word}: found '{reason}', wanted KEY=VALUE,VALUE such as train.lr=1e-4,3e-4; "
            "a list is written in brackets. Correct it."
        ) from error
    if one.type == OverrideType.DEL:
        raise UserError(f"sweep {word}: found a key that is taken away, wanted its values.")
    return renamed.key(one.key_or_group, experiment.RENAMED), [_plain(value) for value in found]


def _plain(value: Any) -> Any:
    """What stands in quotes is text."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return getattr(value, "text", value)


def _seeded(before: dict[str, Any], count: int | None) -> dict[str, Any]:
    """With so many seeds: those that are there first, then the next ones."""
    found = copy.deepcopy(before)
    block = found.get("experiment")
    if count is not None and isinstance(block, dict) and isinstance(block.get("seeds"), list):
        own = block["seeds"]
        more = (seed for seed in range(count + len(own)) if seed not in own)
        block["seeds"] = [*own, *more][:count]
    return found


def _arms(
    before: dict[str, Any],
    name: str,
    values: dict[str, list[Any]],
    wanted: Sequence[str] | None,
    said: str,
) -> list[str]:
    """Arms to sweep: those wanted, or those of the experiment that any value changes."""
    if wanted is not None:
        return list(wanted)
    listed = list(experiment.of(before, str(PARAMS)).experiment.arms)
    made = {arm for arm in listed if arm not in before["arms"]}  # by other sweeps
    listed = [arm for arm in listed if arm not in made]
    block = {"arms": listed, "values": values}
    _, places = experiment.swept({**before, "sweep": {name: block}}, said)
    changed = [arm for arm in listed if any(own[arm] != arm for own in places[name].values())]
    if not changed:
        raise UserError(
            f"{said}: found no arm that it changes, wanted a value that some arm reads and does "
            f"not have already: {', '.join(values)}. Correct it."
        )
    return changed


def _said(
    file: Experiment, name: str, places: dict[str, dict[str, str]], before: dict[str, Any]
) -> str:
    """A line a point with its cells, how many others have too, and how many ran; then the sums."""
    found = expand.expand(file)
    reads, ran = expand.upstream(found), plan_files.locked()
    listed = experiment.of(before, str(PARAMS)).experiment.arms
    known = set(expand.upstream(expand.expand(experiment.of(before, str(PARAMS)))))
    own = {label: _cells(found, reads, set(arms.values())) for label, arms in places.items()}
    body = []
    for point in sweeps.points(name, file.sweep[name]):
        mine = own[point.label]
        others = set().union(known, *(own[label] for label in own if label != point.label))
        body.append(
            [
                point.label,
                *map(str, point.values.values()),
                len(mine),
                len(mine & others),
                len(mine & ran.keys()),
            ]
        )
    new = [arm for arm in file.experiment.arms if arm not in listed]
    head = [name, *file.sweep[name].values, "cells", "shared", "ran"]
    table = tabulate(body, head, tablefmt="simple", disable_numparse=True)
    apart = sum(len(mine) for mine in own.values())
    together = len(set().union(*own.values()))
    return (
        f"{table}\n\n{_many(body, 'point')} of {_many(file.sweep[name].arms, 'arm')}, "
        f"{_many(file.experiment.seeds, 'seed')}: {_many(new, 'arm')} more. "
        f"Their cells are {together:,} where as many experiments apart would have {apart:,}; "
        f"the plan has {len(reads):,}, {len(set(reads) - ran.keys()):,} of which have not run."
    )


def _many(things: Sequence[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _cells(found: dict[str, Any], reads: dict[str, set[str]], arms: set[str]) -> set[str]:
    """Cells of these arms and of base, and all that they read."""
    names = {name.partition("@")[2]: name for name in reads}
    own = expand.named(found)
    keys = {
        key.rpartition("/")[2]
        for arm in (*arms, "base")
        for rounds in own[arm].values()
        for cells in rounds.values()
        for key in cells.values()
    }
    return dag_files.above(reads, {names[key] for key in keys})
