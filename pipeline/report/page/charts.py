"""The page's charts as Vega-Lite specs. Colours are names that charts.js looks up in the theme.

`@arm0`, `@arm1`, ... are the colours of pipeline/report/charts.py in the order of the arms, so that
an arm looks the same in all pictures, in light and in dark.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import altair as alt

from pipeline.report.charts import COLOURS, look
from pipeline.report.page.blocks import Row

SHAPES = {  # of pipeline/report/charts.py, as Vega's names or paths
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z",
}
HEIGHT = 300
_LEGEND = alt.Legend(orient="bottom", symbolOpacity=1, symbolType="circle")
SHOWN = "indexof(shown, datum.arm) >= 0"  # arms that the legend has on


def colour(arms: list[str], arm: str) -> str:
    return f"@arm{arms.index(arm) % len(COLOURS)}"


def _arms(arms: list[str]) -> tuple[alt.Color, alt.Shape]:
    colours = alt.Scale(domain=arms, range=[colour(arms, arm) for arm in arms])
    shapes = alt.Scale(domain=arms, range=[SHAPES[look(arms, arm)["marker"]] for arm in arms])
    return (
        alt.Color("arm:N", scale=colours, legend=None),
        alt.Shape("arm:N", scale=shapes, legend=None),
    )


def _spec(chart: Any, height: int = HEIGHT) -> Row:
    spec: Row = chart.properties(width="container", height=height).to_dict()
    del spec["$schema"], spec["config"]
    return spec


def _numbers(names: Sequence[tuple[str, str]], format_: str = ".3f") -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:Q", title=title, format=format_) for name, title in names]


def gaps(points: list[Row]) -> bool:
    """Whether rounds lie between the points that have none."""
    rounds = sorted({point["round"] for point in points})
    return any(b - a > 1 for a, b in itertools.pairwise(rounds))


def curves(points: list[Row], arms: list[str], title: str) -> Row:
    """Accuracy after each round with its band, a line for each arm."""
    colours, shapes = _arms(arms)
    interval = [("accuracy", "accuracy"), ("low", "low"), ("high", "high")]
    data = alt.Chart(alt.InlineData(values=points)).transform_filter(SHOWN)
    rounds = sorted({point["round"] for point in points})
    x = alt.X(
        "round:Q",
        title="optimised rounds",
        axis=alt.Axis(values=rounds, format="d", grid=False),
        scale=alt.Scale(domain=[rounds[0] - 0.05, rounds[-1] + 0.05], nice=False),
    )
    y = alt.Y("accuracy:Q", title=title, scale=alt.Scale(domain=[0, 1]))
    band = data.mark_area(opacity=0.13).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), colours)
    # a straight line over rounds that were not evaluated is no measurement: dashed
    stroke = [5, 4] if gaps(points) else [1, 0]
    line = data.mark_line(strokeWidth=2, strokeDash=stroke).encode(x, y, colours)
    dots = data.mark_point(filled=True, size=55, opacity=1).encode(
        x,
        y,
        colours,
        shapes,
        tooltip=["arm:N", "seeds:N", alt.Tooltip("round:Q"), *_numbers(interval)],
    )
    return _spec(alt.layer(band, line, dots).add_params(alt.param("shown", value=arms)))


def costs(rows: list[Row], arms: list[str], measures: list[str]) -> Row:
    """Accuracy against what it cost, by the measure that is picked."""
    colours, shapes = _arms(arms)
    data = (
        alt.Chart(alt.InlineData(values=rows))
        .transform_calculate(cost="datum[measure]")
        .transform_filter(f"isValid(datum.cost) && {SHOWN}")
    )
    x = alt.X(
        "cost:Q", title=None, axis=alt.Axis(labelExpr="format(datum.value, '~s')", tickCount=6)
    )
    y = alt.Y("accuracy:Q", title="accuracy, sampled", scale=alt.Scale(domain=[0, 1]))
    path = data.mark_line(strokeWidth=1.2, opacity=0.6).encode(x, y, colours, alt.Order("round:Q"))
    interval = data.mark_rule(strokeWidth=1.4).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), colours)
    tooltip = [
        "arm:N",
        "seeds:N",
        "round:Q",
        *_numbers([("cost", "cost")], ",.6~g"),
        *_numbers([("accuracy", "accuracy"), ("low", "low"), ("high", "high")]),
    ]
    dots = data.mark_point(filled=True, size=80, opacity=1).encode(
        x, y, colours, shapes, tooltip=tooltip
    )
    chart = alt.layer(path, interval, dots).add_params(
        alt.param("measure", value=measures[0]), alt.param("shown", value=arms)
    )
    return _spec(chart)


def intervals(rows: list[Row], order: list[str], title: str, picks: list[str]) -> Row:
    """A value with its interval for each `label`, a colour a `series`, of the rows picked."""
    data = alt.Chart(alt.InlineData(values=rows))
    for name in picks:
        data = data.transform_filter(f"datum.{name} == {name}")
    y = alt.Y("label:N", title=None, sort=order)
    series = sorted({row["series"] for row in rows}, key=_natural)
    side = alt.YOffset("series:N", sort=series)
    colours = alt.Color(
        "series:N",
        sort=series,
        title=None,
        scale=alt.Scale(range=[f"@arm{i}" for i in range(len(COLOURS))]),
        legend=_LEGEND if len(series) > 1 else None,
    )
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=6))
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(color="@muted")
    bars = data.mark_rule(strokeWidth=2).encode(alt.X("low:Q"), alt.X2("high:Q"), y, side, colours)
    dots = data.mark_point(filled=True, size=60, opacity=1).encode(
        x,
        y,
        side,
        colours,
        tooltip=[
            alt.Tooltip("label:N", title="what"),
            "series:N",
            *_numbers([("value", "value"), ("low", "low"), ("high", "high")]),
        ],
    )
    layers = alt.layer(zero.encode(alt.X("zero:Q")), bars, dots)
    layers = layers.add_params(*(alt.param(name, value=rows[0][name]) for name in picks))
    return _spec(layers, 40 + max(26, 12 * len(series)) * len(order))


def profile(rows: list[Row], x_title: str, picks: list[str]) -> Row:
    """A value over bins, a line a series, of the rows picked."""
    data = alt.Chart(alt.InlineData(values=rows))
    for name in picks:
        data = data.transform_filter(f"datum.{name} == {name}")
    series = sorted({row["series"] for row in rows}, key=_natural)
    colours = alt.Color(
        "series:N",
        sort=series,
        title=None,
        scale=alt.Scale(range=[f"@arm{i}" for i in range(len(COLOURS))]),
        legend=_LEGEND if len(series) > 1 else None,
    )
    x = alt.X("bin:Q", title=x_title, axis=alt.Axis(grid=False, tickCount=6))
    y = alt.Y("value:Q", title="mean")
    band = data.mark_area(opacity=0.13).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), colours)
    tooltip = [
        "series:N",
        *_numbers([("bin", x_title)], ".3~g"),
        *_numbers([("value", "mean"), ("n", "n")], ".4~g"),
    ]
    line = data.mark_line(point=True).encode(x, y, colours, tooltip=tooltip)
    layers = alt.layer(band, line)
    return _spec(layers.add_params(*(alt.param(n, value=rows[0][n]) for n in picks)), 220)


def _natural(value: Any) -> tuple[int, float, str]:
    """Numbers by size before words, `C=6` before `C=12`."""
    digits = str(value).removeprefix("C=")
    try:
        return (0, float(digits), "")
    except ValueError:
        return (1, 0.0, str(value))
