"""The report's pictures. One colour per arm in all of them, colour-blind safe, with markers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from pipeline.core.files import replacing

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

# Okabe and Ito, dark enough on white; then repeated with other markers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "legend.frameon": False,
}
Row = dict[str, Any]


def look(arms: list[str], arm: str) -> dict[str, Any]:
    """Colour and marker of an arm, the same in every picture."""
    index = arms.index(arm)
    marker = MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
    return {"color": COLOURS[index % len(COLOURS)], "marker": marker}


def save(figure: Figure, path: Path) -> None:
    # no date or version in the file: equal pictures are equal bytes
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    plt.close(figure)


def learning_curves(points: list[Row], arms: list[str], split: str, path: Path) -> None:
    """Sampled accuracy after each round: rollouts' own rewards, and the evaluated rounds."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
        for axis, source, title in (
            (axes[0], "rollouts", "Rewards of the rollouts (train problems)"),
            (axes[1], "evaluation", f"Evaluation ({split} problems)"),
        ):
            _curves(axis, [p for p in points if p["source"] == source], arms, source)
            axis.set(title=title, xlabel="optimised rounds")
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylabel("accuracy, sampled")
        axes[0].set_ylim(0, 1)
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7))
        save(figure, path)


def _curves(axis: Any, points: list[Row], arms: list[str], source: str) -> None:
    trained = [arm for arm in arms if arm != "base"]
    bases = {p["seed"]: p for p in points if p["arm"] == "base"}
    for index, arm in enumerate(trained):
        for seed in sorted({p["seed"] for p in points if p["arm"] == arm}):
            own = [p for p in points if p["arm"] == arm and p["seed"] == seed]
            own += [bases[seed]] if seed in bases else []
            own.sort(key=lambda p: p["round"])
            x = np.array([p["round"] for p in own], float)
            x[x > 0] += 0.06 * (index - (len(trained) - 1) / 2)  # side by side, not on top
            y = np.array([p["accuracy"] for p in own])
            error = [y - [p["low"] for p in own], [p["high"] for p in own] - y]
            label = arm if seed == min(p["seed"] for p in points if p["arm"] == arm) else None
            line = "-" if source == "rollouts" else ":"
            axis.errorbar(
                x, y, error, label=label, ls=line, ms=5, lw=1.4, capsize=2, **look(arms, arm)
            )


def branches(rows: list[Row], path: Path) -> None:
    """Effect of the scores in each round: real minus control, a colour a control, a dot a seed."""
    rows = [row for row in rows if row["seed"] is not None and row["task"] == rows[-1]["task"]]
    controls = list(dict.fromkeys(row["control"] for row in rows))
    seeds = sorted({row["seed"] for row in rows})
    count = len(controls) * len(seeds)
    step = min(0.12, 0.6 / count)  # side by side, not on top
    with plt.rc_context(STYLE):
        figure, ((axis,),) = plt.subplots(figsize=(8, 4.4), squeeze=False, layout="constrained")
        for c, control in enumerate(controls):
            for s, seed in enumerate(seeds):
                own = [r for r in rows if r["control"] == control and r["seed"] == seed]
                x = [r["round"] + step * (c * len(seeds) + s - (count - 1) / 2) for r in own]
                y = np.array([r["diff"] for r in own])
                error = np.maximum([y - [r["low"] for r in own], [r["high"] for r in own] - y], 0)
                label = control if not s else None
                axis.errorbar(
                    x, y, error, label=label, ls="", ms=6, capsize=3, **look(controls, control)
                )
        axis.axhline(0, color="#555555", lw=1)
        axis.set(
            title="What the scores did in each round of omniopd",
            xlabel="round, trained twice from its own checkpoint",
            ylabel="accuracy: real scores minus control",
        )
        axis.set_xlim(0.5, max(r["round"] for r in rows) + 0.5)
        axis.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside lower center", ncols=min(len(controls), 7))
        save(figure, path)


def histogram_pair(
    entropies: tuple[np.ndarray, np.ndarray],
    forks: tuple[np.ndarray, np.ndarray],
    places: tuple[np.ndarray, np.ndarray],
    path: Path,
) -> None:
    """Entropy of all response tokens and of fork starts; where along the response forks lie.

    Each pair is (counts, edges).
    """
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
        for (counts, edges), label, colour in (
            (entropies, "all response tokens", "#999999"),
            (forks, "fork starts", COLOURS[0]),
        ):
            share = counts / max(counts.sum(), 1)
            left.stairs(share, edges, label=label, fill=True, alpha=0.55, color=colour)
        left.set(title="Where the student is unsure", xlabel="entropy, nats", ylabel="share")
        highest = np.flatnonzero(entropies[0] + forks[0])
        if len(highest):  # arms without forks have nothing to show
            left.set_yscale("log")
        left.set_xlim(0, entropies[1][highest[-1] + 1] if len(highest) else 1)
        left.legend()
        right.stairs(places[0] / max(places[0].sum(), 1), places[1], fill=True, color=COLOURS[0])
        right.set(
            title="Where forks lie", xlabel="position / response length", ylabel="share of forks"
        )
        save(figure, path)


def similarity(
    found: dict[str, tuple[np.ndarray, np.ndarray, float]], arms: list[str], path: Path
) -> None:
    """Distribution of similarities per arm, (counts, edges, mean) each, a row of steps an arm."""
    with plt.rc_context(STYLE):
        height = 1.2 + 1.1 * max(len(found), 1)
        figure, axes = plt.subplots(
            max(len(found), 1),
            1,
            figsize=(8, height),
            sharex=True,
            squeeze=False,
            layout="constrained",
        )
        for axis, (arm, (counts, edges, mean)) in zip(axes[:, 0], found.items(), strict=False):
            share = counts / max(counts.sum(), 1)
            axis.stairs(share, edges, fill=True, alpha=0.8, color=look(arms, arm)["color"])
            axis.set_title(f"{arm}   mean {mean:.2f}", loc="left", fontsize=10)
            axis.set_ylim(0, 1)
        axes[-1, 0].set_xlabel("similarity of a teacher continuation with the student's chunk")
        figure.supylabel("share of continuations", fontsize=10)
        save(figure, path)


def weights(found: Iterable[tuple[str, np.ndarray]], path: Path) -> None:
    """Weight against pi_bar, a panel an arm: counts (bins of pi_bar, bins of the weight)."""
    panels = list(found)
    with plt.rc_context(STYLE):
        columns = min(max(len(panels), 1), 3)
        rows = -(-max(len(panels), 1) // columns)
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(4.1 * columns, 3.9 * rows),
            squeeze=False,
            sharex=True,
            sharey=True,
            layout="constrained",
        )
        image = None
        for axis, (arm, counts) in zip(axes.flat, panels, strict=False):
            shown = np.ma.masked_equal(counts.T, 0)
            image = axis.imshow(
                shown,
                origin="lower",
                extent=(0, 1, 0, 1),
                cmap="viridis_r",
                norm=mpl.colors.LogNorm(1, max(2, counts.max())),
                interpolation="nearest",
            )
            axis.plot([0, 1], [0, 1], color="#555555", lw=0.8, ls="--")
            axis.set_title(arm, fontsize=10)
            axis.grid(False)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        if image is not None:
            figure.colorbar(image, ax=axes, label="forks", shrink=0.8)
        figure.supxlabel("pi_bar: the student's own confidence", fontsize=10)
        figure.supylabel("the weight it trains with", fontsize=10)
        save(figure, path)
