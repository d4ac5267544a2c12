"""A comparison in words and tables."""

import json
from collections.abc import Iterator
from typing import Any

from tabulate import tabulate

from pipeline.analysis.intervals import interval
from pipeline.stage.run_records import Row

HEAD = (
    "arm",
    "experiment",
    "sampled avg@k",
    "diff to base",
    "minus the first",
    "teacher tokens",
    "dollars",
    "seconds",
)
WIDEST = 60  # characters of a value of params.yaml


def text(found: dict[str, Any]) -> str:
    """Of what `compared.document` has."""
    names = list(found["basis"])
    parts = [basis(found["basis"]), _table(found["rows"])]
    if len(names) > 1:
        parts.append(
            f"`minus the first` is the same arm minus that of {names[0]}, paired by seed and "
            "problem. Intervals are 95 % each and not adjusted for how many there are: such a "
            "comparison explores. Tokens, dollars and seconds are as if the arm were run alone."
        )
        parts.append(_params(found["params"], names))
        parts.append(_cells(found))
    parts.append(_costs(found))
    parts += list(missing(found["missing"]))
    return "\n\n".join(parts)


def basis(found: dict[str, str]) -> str:
    """What the accuracies are."""
    if len(set(found.values())) == 1:
        return f"Accuracy is {next(iter(found.values()))}, after each arm's last round."
    lines = [f"- {name}: {said}" for name, said in found.items()]
    return "\n".join(["Accuracy after each arm's last round is", *lines])


def _table(rows: list[Row]) -> str:
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    body = [_line(row) for row in sorted(rows, key=lambda row: arms.index(row["arm"]))]
    return tabulate(body, HEAD, tablefmt="github", disable_numparse=True)


def _line(row: Row) -> list[str]:
    diff = row["minus_first"]
    first = interval(diff["diff"], diff["low"], diff["high"], "+") if diff else row["why_not"] or ""
    base = row["arm"] == "base"
    return [
        row["arm"],
        row["experiment"],
        interval(row["accuracy"], row["low"], row["high"]),
        "" if base else interval(row["diff"], row["diff_low"], row["diff_high"], "+"),
        first,
        number(row["teacher_tokens_alone"]),
        dollars(row["usd_alone"]),
        number(row["seconds"]),
    ]


def _params(params: dict[str, dict[str, Any]], names: list[str]) -> str:
    if not params:
        return "Their params are the same."
    body = [[key, *(value(own[name]) for name in names)] for key, own in params.items()]
    table = tabulate(body, ["differs", *names], tablefmt="github", disable_numparse=True)
    return f"What differs in params.yaml:\n\n{table}"


def value(found: Any) -> str:
    """A value of params.yaml, or its beginning."""
    shown = json.dumps(found) if not isinstance(found, str) else found
    return shown if len(shown) <= WIDEST else f"{shown[: WIDEST - 4]} ..."


def _cells(found: dict[str, Any]) -> str:
    lines = [
        f"- {one['experiment']}: {one['cells']:,} cells, {one['shared']:,} of them shared"
        for one in found["cells"]
    ]
    apart = sum(one["cells"] for one in found["cells"])
    return "\n".join([f"Together {found['together']:,} cells, apart {apart:,}:", *lines])


def _costs(found: dict[str, Any]) -> str:
    costs = dict(found["costs"])
    if len(costs) > 1:
        costs["together"] = found["costs_together"]
    lines = [
        f"- {name}: {number(own['teacher_tokens_bought'])} teacher tokens bought, "
        f"{dollars(own['usd_spent'])} dollars, {number(own['seconds'])} seconds of compute"
        for name, own in costs.items()
    ]
    head = "What their cells took, each once, pretraining and calibration apart:"
    return "\n".join([head, *lines])


def missing(found: dict[str, dict[str, str]]) -> Iterator[str]:
    """A sentence on each experiment that is left without some arms."""
    for name, arms in found.items():
        if arms:
            first = next(iter(arms.values()))
            yield (
                f"{name} is left without {', '.join(arms)}, as {first} has not run: `omniopd run` "
                "goes on with it, `omniopd status` says how far it is."
            )


def number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def dollars(value: float | None) -> str:
    return "no price" if value is None else f"{value:,.2f}"
