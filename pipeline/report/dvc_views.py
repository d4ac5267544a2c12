"""A report for DVC's own commands: a file of metrics an arm, and its plots.

DVC prints a row for each file of metrics, and draws a line for each arm only by a template of its
own. Its page takes its scripts from the network unless it is given another one.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import altair as alt

from pipeline.analysis import costs
from pipeline.analysis.results import Evals
from pipeline.report.charts import look
from pipeline.report.page.charts import SHAPES
from pipeline.report.page.page import vega
from pipeline.stage.run_records import Row

METRICS = "metrics"  # folders of the report
PLOTS = "plots"
POOLED = ("accuracy", "low", "high", "diff", "diff_low", "diff_high")
WIDTH, HEIGHT = 380, 300  # of a panel, pixels
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src file: data: blob:;
 script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'">
{refresh_tag}
<title>DVC plots</title>
<style>body { font-family: sans-serif; margin: 2em } table { border-spacing: 15px }</style>
<script>SCRIPTS</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def metrics(evals: Evals, results: list[Row], pooled: list[Row]) -> dict[str, Row]:
    """The row of `dvc metrics show` for each arm: after its last round, over its seeds.

    Sampled accuracy and difference to base with their intervals, of all tasks where there are
    several, and then of each under its name; greedy accuracy, tokens_used and the share of its
    teachers' draws that failed are means over the seeds.
    """
    rows: dict[str, Row] = {}
    for arm in dict.fromkeys(row["arm"] for row in pooled):
        last = max(row["round"] for row in pooled if row["arm"] == arm)
        own = [row for row in pooled if row["arm"] == arm and row["round"] == last]
        wide = [row for row in results if row["arm"] == arm and row["round"] == last]
        tasks = {row["task"]: _of_task(row, wide) for row in own}
        *_, overall = tasks.values()
        rows[arm] = {
            "round": last,
            "seeds": own[0]["seeds"],
            **overall,
            "tokens_used": fmean(row["tokens_used"] for row in wide),
            **_failed(evals, arm, last),
            **(tasks if len(tasks) > 1 else {}),
        }
    return rows


def _of_task(pooled: Row, results: Iterable[Row]) -> Row:
    rows = [row for row in results if row["task"] == pooled["task"]]
    greedy = fmean(row["accuracy"] for row in rows if row["decoding"] == "greedy")
    return {name: pooled[name] for name in POOLED} | {"greedy": greedy}


def _failed(evals: Evals, arm: str, last: int) -> Row:
    seeds = [seed for one, seed, round_ in evals.tables if (one, round_) == (arm, last)]
    rates = [costs.cost(evals.arms, arm, seed, last).failure_rate for seed in seeds]
    known = [rate for rate in rates if rate is not None]
    return {"continuation_failure_rate": fmean(known)} if known else {}


def curves(points: list[Row]) -> list[Row]:
    """Accuracy by arm, source and round, over seeds; an arm's line begins at base's evaluation."""
    arms = dict.fromkeys(point["arm"] for point in points)
    trained = [arm for arm in arms if arm != "base"] or list(arms)
    accuracies: dict[tuple[str, str, int], list[float]] = {}
    for point in points:
        for arm in trained if point["arm"] == "base" else [point["arm"]]:
            key = arm, point["source"], point["round"]
            accuracies.setdefault(key, []).append(point["accuracy"])
    return [
        {"arm": arm, "source": source, "round": round_, "accuracy": fmean(values)}
        for (arm, source, round_), values in sorted(accuracies.items())
    ]


def losses(steps: list[Row]) -> list[Row]:
    """The loss by arm and optimizer step, counted on over rounds, over seeds."""
    counts: dict[tuple[str, int], int] = {}
    by_step: dict[tuple[str, int], list[float]] = {}
    for step in steps:
        one = step["arm"], step["seed"]
        counts[one] = counts.get(one, 0) + 1
        by_step.setdefault((step["arm"], counts[one]), []).append(step["train/loss"])
    return [
        {"arm": arm, "step": step, "loss": fmean(values)} for (arm, step), values in by_step.items()
    ]


def _template(arms: list[str], x: alt.X, y: alt.Y, shown: list[str], panels: str = "") -> str:
    """A Vega-Lite spec with DVC's places for rows and title: a line an arm.

    A panel a revision, and beside each other one a value of `panels`; `shown` on pointing.
    """
    lines = [arm for arm in arms if arm != "base"] or arms
    colours = alt.Scale(domain=lines, range=[look(arms, arm)["color"] for arm in lines])
    shapes = alt.Scale(domain=lines, range=[SHAPES[look(arms, arm)["marker"]] for arm in lines])
    chart = (
        alt.Chart()
        .mark_line(strokeWidth=1.6, point={"filled": True, "size": 45 if panels else 20})
        .encode(
            x,
            y,
            alt.Color("arm:N", scale=colours, title=None),
            alt.Shape("arm:N", scale=shapes, title=None),
            tooltip=["rev:N", "arm:N", *shown],
        )
        .properties(width=WIDTH if panels else 2 * WIDTH, height=HEIGHT)
        .facet(
            data=alt.InlineData(values="<DVC_METRIC_DATA>"),
            row=alt.Row("rev:N", title=None),
            **({"column": alt.Column(f"{panels}:N", title=None)} if panels else {}),
        )
        .properties(title="<DVC_METRIC_TITLE>")
    )
    spec = chart.to_dict()
    del spec["config"]
    actions = {"export": True, "source": False, "compiled": False, "editor": False}
    spec["usermeta"] = {"embedOptions": {"renderer": "svg", "actions": actions}}
    return json.dumps(spec, indent=1) + "\n"


def _of_curves(arms: list[str], rows: list[Row]) -> str:
    rounds = alt.Axis(values=sorted({row["round"] for row in rows}), format="d")
    x = alt.X("round:Q", title="optimised rounds", axis=rounds)
    y = alt.Y("accuracy:Q", title="accuracy, sampled", scale=alt.Scale(domain=[0, 1]))
    return _template(arms, x, y, ["round:Q", "accuracy:Q"], "source")


def _of_losses(arms: list[str]) -> str:
    whole = alt.Axis(labelExpr="datum.value % 1 ? '' : datum.label")
    x = alt.X("step:Q", title="optimizer steps, all rounds", axis=whole)
    return _template(arms, x, alt.Y("loss:Q", title="train/loss"), ["step:Q", "loss:Q"])


def files(arms: list[str], parts: dict[str, Any], evals: Evals) -> dict[Path, str]:
    """The files written below the report: metrics/ARM.json, and plots/ with page and templates."""
    own = metrics(evals, parts["results"], parts["pooled"])
    texts = {Path(METRICS) / f"{arm}.json": _json(row) for arm, row in own.items()}
    points, plots = curves(parts["curves"]), Path(PLOTS)
    return texts | {
        plots / "curves.json": _json(points),
        plots / "losses.json": _json(losses(parts["losses"])),
        plots / "curves.vega.json": _of_curves(arms, points),
        plots / "losses.vega.json": _of_losses(arms),
        plots / "page.html": PAGE.replace("SCRIPTS", vega()),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"
