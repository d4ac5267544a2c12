"""cost.png: what accuracy each arm reached for what it spent up to there."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter

from pipeline.report.charts import STYLE, look, save
from pipeline.stage.run_records import Row

PANELS = (  # title, column of costs.json, does it show the arms that ask a teacher?
    ("Teacher output tokens, where a teacher is asked", "total_teacher_tokens_out_trained", True),
    ("Student tokens, where none is", "total_student_tokens_trained", False),
    ("Optimizer steps, where none is", "total_optimizer_steps", False),
)
ASKED = "total_teacher_tokens_out_used"
SEEDS = -1  # in the place of a seed: all of them


def draw(
    points: list[Row], over_seeds: list[Row], costs: list[Row], arms: list[str], path: Path
) -> None:
    """Sampled accuracy of the evaluated rounds against costs.

    `points` of the learning curves or, of several seeds, the accuracies `over_seeds` (pooled.json),
    each at the mean of its costs.
    """
    asked = {row["arm"] for row in costs if row[ASKED]}
    evaluated = [p for p in points if p["source"] == "evaluation"]
    if len({row["seed"] for row in costs}) > 1:
        task = (
            over_seeds[-1]["task"] if over_seeds else ""
        )  # the last: `all`, where there are several
        evaluated = [{**row, "seed": SEEDS} for row in over_seeds if row["task"] == task]
        costs = _means(costs)
    spent = {(row["arm"], row["seed"], row["round"]): row for row in costs}
    trained = [arm for arm in arms if arm != "base"]
    panels = [(*panel, [a for a in trained if (a in asked) == panel[2]]) for panel in PANELS]
    panels = [panel for panel in panels if panel[3]] or panels[:1]
    with plt.rc_context(STYLE):
        size = (4 + 3 * len(panels), 4.8)
        shape: Any = {"sharey": True, "squeeze": False, "layout": "constrained"}
        figure, ((*axes,),) = plt.subplots(1, len(panels), figsize=size, **shape)
        for axis, (title, column, _, shown) in zip(axes, panels, strict=True):
            _panel(axis, evaluated, spent, shown, arms, column)
            axis.set(title=title, xlabel=title.partition(",")[0].lower() + " so far")
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes[0].set(ylabel="accuracy, sampled", ylim=(0, 1))
        handles = dict(zip(*_legend(axes), strict=True))
        if handles:
            names = list(handles)
            columns = min(len(names), 2 * len(panels) + 1)
            figure.legend(list(handles.values()), names, loc="outside lower center", ncols=columns)
        save(figure, path)


def _means(costs: list[Row]) -> list[Row]:
    """Costs of an arm and round, the mean over its seeds."""
    by_round: dict[tuple[str, int], list[Row]] = {}
    for row in costs:
        by_round.setdefault((row["arm"], row["round"]), []).append(row)
    columns = [column for _, column, _ in PANELS]
    return [
        {"arm": arm, "round": round_, "seed": SEEDS}
        | {column: float(np.mean([row[column] for row in rows])) for column in columns}
        for (arm, round_), rows in by_round.items()
    ]


def _legend(axes: Any) -> tuple[list[str], list[Any]]:
    """Labels and handles of all panels."""
    pairs = [axis.get_legend_handles_labels() for axis in axes]
    return [n for _, names in pairs for n in names], [h for handles, _ in pairs for h in handles]


def _panel(
    axis: Any,
    points: list[Row],
    spent: dict[tuple[str, int, int], Row],
    shown: list[str],
    arms: list[str],
    column: str,
) -> None:
    """A line an arm, from the untrained student, which cost nothing."""
    bases = {p["seed"]: p for p in points if p["arm"] == "base"}
    for point in bases.values():
        label = "base" if point is next(iter(bases.values())) else None
        axis.axhline(point["accuracy"], color="#999999", lw=1, ls="--", label=label)
    cells = [(arm, p) for arm in shown for p in points if p["arm"] == arm]
    most = max((spent[arm, p["seed"], p["round"]][column] for arm, p in cells), default=1)
    for index, arm in enumerate(shown):
        seeds = sorted({p["seed"] for name, p in cells if name == arm})
        for seed in seeds:
            own = [p for name, p in cells if (name, p["seed"]) == (arm, seed)]
            own = sorted([*own, *filter(None, [bases.get(seed)])], key=lambda p: p["round"])
            x = np.array([spent[p["arm"], seed, p["round"]][column] for p in own], float)
            x[x > 0] += 0.008 * most * (index - (len(shown) - 1) / 2)  # equal costs side by side
            y = np.array([p["accuracy"] for p in own])
            error = [y - [p["low"] for p in own], [p["high"] for p in own] - y]
            label = arm if seed == seeds[0] else None
            style = {"ls": ":", "ms": 5, "lw": 1.2, "capsize": 2, **look(arms, arm)}
            axis.errorbar(x, y, error, label=label, **style)
    axis.set_xlim(left=-0.03 * most)
