"""The report's picture of calibration: contrast by metric and chunk length."""

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from pipeline.calibration import FLAT
from pipeline.calibration.summary import Calibrated
from pipeline.config.method import CANDIDATES
from pipeline.report.charts import COLOURS, MARKERS, STYLE, save

COLUMNS = 3  # panels side by side


def contrasts(shown: list[Calibrated], path: Path) -> None:
    """Own fork minus other forks of the same response, a panel for each teacher and round."""
    count = max(len(shown), 1)
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(max(4.2 * columns, 6.4), 3.6 * rows + 0.7),
            squeeze=False,
            sharey=True,
            layout="constrained",
        )
        for axis, calibrated in zip(axes.flat, shown, strict=False):
            _panel(axis, calibrated)
        for axis in axes.flat[len(shown) :]:
            axis.set_axis_off()
        figure.supylabel("contrast with other forks of the response", fontsize=10)
        figure.supxlabel("chunk length, student tokens", fontsize=10)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside upper center", ncols=6)
        save(figure, path)


def _panel(axis: Any, calibrated: Calibrated) -> None:
    found = [r for r in calibrated.rows if r["quantity"] == "contrast/other-fork"]
    lengths = sorted({row["chunk_tokens"] for row in found})
    axis.axhspan(0, FLAT, color="#999999", alpha=0.35, lw=0, label="flat")
    axis.axhline(0, color="#555555", lw=0.8)
    for number, metric in enumerate(CANDIDATES):  # each has its colour in every panel
        own = [r for r in found if r["metric"] == metric and r["value"] is not None]
        if not own:
            continue
        aside = 0.09 * (number - (len(CANDIDATES) - 1) / 2)  # so that metrics stand side by side
        x = [lengths.index(r["chunk_tokens"]) + aside for r in own]
        y = [r["value"] for r in own]
        error = [
            [r["value"] - (r["value"] if r["low"] is None else r["low"]) for r in own],
            [(r["value"] if r["high"] is None else r["high"]) - r["value"] for r in own],
        ]
        look = {"color": COLOURS[number], "marker": MARKERS[number]}
        axis.errorbar(x, y, error, label=metric, ms=5, lw=1.0, ls=":", capsize=2, **look)
    axis.set_xticks(range(len(lengths)), lengths)
    axis.set_xlim(-0.5, len(lengths) - 0.5)
    axis.set_title(f"teacher {calibrated.teacher}, round {calibrated.round}", fontsize=10)
