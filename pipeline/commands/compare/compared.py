"""Experiments in numbers: the report's own statistics of each, and of each minus the first."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.analysis import bootstrap, costs, pooled, seeds_by_problems
from pipeline.analysis.pooled import Seeds
from pipeline.analysis.results import Evals
from pipeline.commands.compare.found import Experiment
from pipeline.commands.compare.views import View
from pipeline.commands.exp.exp_show import differing
from pipeline.core.errors import UserError
from pipeline.stage.run_records import Row

COSTS = {  # of an arm, as if it were run alone: columns of costs.json
    "teacher_tokens_alone": "total_teacher_tokens_out_alone",
    "usd_alone": "total_usd_alone",
    "seconds": "total_seconds",
}
Runs = dict[tuple[str, str, str], costs.Cost]  # by stage, key and MD5 of run.json


class Measured(NamedTuple):
    """An experiment's numbers."""

    rows: list[Row]  # of pooled.rows, of the last round of each arm and the task of all
    grades: dict[str, Seeds]  # by arm
    costs: dict[str, Row]  # by arm, over its seeds
    runs: Runs  # of its cells
    missing: dict[str, str]  # arms that have not run, each with a cell that has not
    basis: str  # of what the accuracy is


def measured(found: Experiment) -> Measured:
    """Raises UserError where nothing of it has run, or what it wrote is not there."""
    view = View(found)
    missing = view.missing()
    arms = [arm for arm in found.arms if arm not in missing]
    if "base" not in arms:
        raise UserError(
            f"compare {found.name}: found base not evaluated, as {missing['base']} has not run, "
            "wanted an experiment that has. Run it: `omniopd run`."
        )
    own = {arm: found.arms[arm] for arm in arms}
    runs = {run: costs.of_cell(run[0], values) for run, values in view.runs(arms)}
    with view.opened(arms):
        evals = Evals(own)
        if not evals.tables:
            raise UserError(
                f"compare {found.name}: found no evaluation, as its task has no checker, wanted "
                "graded answers. What evaluate.agreement and evaluate.judge found is in "
                "held_out.json and judged.json of each report."
            )
        task = evals.tasks()[-1]
        rows = [row for row in pooled.rows(evals) if row["task"] == task]
        spent = costs.rows(own)
    last = {row["arm"]: row for row in rows}  # in the order of rounds
    grades = {arm: pooled.by_seed(evals, arm, task) for arm in arms}
    basis = (
        f"avg@{evals.samples(task)} on {rows[0]['problems']} problems of split "
        f"{found.split}, task {task}"
    )
    by_arm = {arm: _summed(spent, arm) for arm in arms}
    return Measured(list(last.values()), grades, by_arm, runs, missing, basis)


def _summed(spent: Sequence[Row], arm: str) -> Row:
    """Over an arm's seeds, after the last round of each."""
    last = {row["seed"]: row for row in spent if row["arm"] == arm}
    return {name: _sum(row[key] for row in last.values()) for name, key in COSTS.items()}


def _sum(values: Any) -> float | None:
    found = list(values)
    return None if None in found else sum(found)


def took(runs: Runs) -> Row:
    """What these executions bought, and their seconds."""
    total = sum(runs.values(), costs.Cost())
    return {
        "teacher_tokens_bought": total.tokens_bought,
        "usd_spent": total.usd,
        "seconds": total.seconds,
    }


def minus(one: Seeds, first: Seeds, same: bool) -> bootstrap.Interval | str:
    """An arm's accuracy minus its accuracy in the first experiment, paired by seed and problem;
    or why that is not known. `same`: so are problems of one name."""
    common = sorted(one.keys() & first.keys())
    if not common:
        return "other seeds"
    own, other = ({seed: arm[seed] for seed in common} for arm in (one, first))
    if not same or any(own[seed].problems != other[seed].problems for seed in common):
        return "other problems"
    if len(common) == 1:
        return bootstrap.difference(own[common[0]], other[common[0]])
    return seeds_by_problems.difference(own, other).interval


def params(found: Sequence[Experiment]) -> dict[str, list[Any]]:
    """Values of each key of params.yaml that not all have alike."""
    return {
        key: [one.values.get(key) for one in found]
        for key in sorted(differing([one.values for one in found]))
    }


def shared(found: Sequence[Experiment]) -> list[tuple[str, int, int]]:
    """Of each: its cells, and how many of them some other one has too."""
    result = []
    for one in found:
        others = set[str]().union(*(x.cells for x in found if x is not one))
        result.append((one.name, len(one.cells), len(one.cells & others)))
    return result


def document(found: Sequence[Experiment], numbers: Mapping[str, Measured]) -> dict[str, Any]:
    """All of it as plain values."""
    names = [one.name for one in found]
    return {
        "rows": [row for one in found for row in _rows(one, found[0], numbers)],
        "basis": {name: numbers[name].basis for name in names},
        "params": {
            key: dict(zip(names, values, strict=True)) for key, values in params(found).items()
        },
        "cells": [
            {"experiment": name, "cells": cells, "shared": others}
            for name, cells, others in shared(found)
        ],
        "together": len(set[str]().union(*(one.cells for one in found))),
        "costs": {name: took(numbers[name].runs) for name in names},
        "costs_together": took({k: v for own in numbers.values() for k, v in own.runs.items()}),
        "missing": {name: numbers[name].missing for name in names},
    }


def _rows(one: Experiment, first: Experiment, numbers: Mapping[str, Measured]) -> Iterator[Row]:
    """A row an arm: that of pooled.json, the difference to the same arm of the first, and costs."""
    own, other = numbers[one.name], numbers[first.name]
    for row in own.rows:
        arm, values = row["arm"], {"experiment": one.name, **row}
        values |= {"minus_first": None, "why_not": None}
        if one is not first and one.arms[arm] == first.arms.get(arm):
            values["why_not"] = "the same cells"
        elif one is not first and arm in other.grades:
            diff = minus(own.grades[arm], other.grades[arm], same_problems(one, first))
            if isinstance(diff, str):
                values["why_not"] = diff
            else:
                values["minus_first"] = {"diff": diff[0], "low": diff[1], "high": diff[2]}
        yield values | own.costs[arm]


def same_problems(one: Experiment, other: Experiment) -> bool:
    """Whether a problem of one name is the same one in both."""
    changed = differing([one.values, other.values])
    return not any(key.startswith("prepare.") or key == "evaluate.split" for key in changed)
