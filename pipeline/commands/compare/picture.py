"""The picture of a comparison: accuracies, and differences to the first, with their intervals."""

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from pipeline.report.charts import STYLE, look, save
from pipeline.stage.run_records import Row

LINE = 0.26  # inches of an experiment in an arm
MOST_COLUMNS = 4  # of the legend


def draw(found: dict[str, Any], path: Path) -> None:
    """Of what `compared.document` has."""
    names, rows = list(found["basis"]), found["rows"]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    places = _places(arms, names, rows)
    several = any(row["minus_first"] for row in rows)
    height = 1.6 + LINE * (len(rows) + len(arms)) + 0.25 * -(-len(names) // MOST_COLUMNS)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1,
            1 + several,
            figsize=(6.5 + 4 * several, height),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        left = axes[0, 0]
        for name in names:
            own = [row for row in rows if row["experiment"] == name]
            bars = [(row["accuracy"], row["low"], row["high"]) for row in own]
            _bars(left, [places[row["arm"], name] for row in own], bars, look(names, name), name)
            if several:
                differing = [row for row in own if row["minus_first"]]
                bars = [tuple(row["minus_first"].values()) for row in differing]
                at = [places[row["arm"], name] for row in differing]
                _bars(axes[0, 1], at, bars, look(names, name))
        for axis in axes[0]:
            _label(axis, arms, places)
        left.set(title="Sampled accuracy after the last round", xlabel="accuracy", xlim=(0, 1))
        if several:
            axes[0, 1].axvline(0, color="#555555", lw=1)
            axes[0, 1].set(
                title=f"The same arm minus that of {names[0]}", xlabel="difference in accuracy"
            )
        handles, labels = left.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(len(labels), MOST_COLUMNS)
        )
        save(figure, path)


def _places(arms: list[str], names: list[str], rows: list[Row]) -> dict[tuple[str, str], float]:
    """Where each arm of each experiment stands, from above; a gap between arms."""
    known = {(row["arm"], row["experiment"]) for row in rows}
    order = [(arm, name) for arm in arms for name in names if (arm, name) in known]
    return {(arm, name): i + arms.index(arm) for i, (arm, name) in enumerate(order)}


def _bars(
    axis: Any, y: list[float], bars: list[Any], style: dict[str, Any], label: str | None = None
) -> None:
    x = [value for value, _, _ in bars]
    error = [[max(v - low, 0) for v, low, _ in bars], [max(high - v, 0) for v, _, high in bars]]
    axis.errorbar(x, y, xerr=error, ls="", ms=6, capsize=3, lw=1.4, label=label, **style)


def _label(axis: Any, arms: list[str], places: dict[tuple[str, str], float]) -> None:
    """Arms at the middle of their lines."""
    own = {arm: [y for (one, _), y in places.items() if one == arm] for arm in arms}
    axis.set_yticks([sum(ys) / len(ys) for ys in own.values()], list(own))
    axis.grid(visible=False, axis="y")
    last = max(places.values())
    axis.set_ylim(last + 0.8, -0.8)
    for arm in arms[1:]:
        axis.axhline(min(own[arm]) - 1, color="#dddddd", lw=0.8)
