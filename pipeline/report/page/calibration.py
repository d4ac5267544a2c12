"""The section of calibration.json: does the similarity at a fork say anything about that fork?

rows  arm, seed, round, teacher, metric, chunk_tokens, quantity, bin, value, low, high, n, note. A
      quantity's name is KIND or KIND/OF; `bin` is the place on a profile, or an alpha; metric,
      bin, value, low, high and note may be null
"""

from collections.abc import Sequence

from pipeline.analysis import intervals
from pipeline.calibration import warns
from pipeline.report.page import charts
from pipeline.report.page.blocks import (
    Block,
    Cell,
    Chart,
    Charts,
    Forest,
    Row,
    Section,
    Table,
    Text,
)

MOST = 6000  # rows in the charts; above it first and last round of the first seed
LINES = 600  # of the table
WARNINGS = 3
PANELS = {  # titles of charts of single values, and the kinds that they hold
    "Similarity: own fork, floors and ceilings": ("own", "floor", "ceiling"),
    "Contrast: own fork above another": ("contrast",),
    "Chance of telling apart (AUROC; one half is none)": ("auroc", "correct"),
    "Reliability of k_sem": ("reliability",),
}
BINNED = {  # titles by quantity, and what the bins are
    "profile/position": ("Similarity along the response", "place in the response"),
    "profile/entropy": ("Similarity by the fork's entropy", "entropy, nats"),
    "posterior-sd": ("Posterior sd by alpha", "alpha"),
    "shrinkage": ("Shrinkage by alpha", "alpha"),
    "move": ("How far the prior moves a score", "alpha"),
}
LABELS = {"source": "answers", "metric": "metric"}
PICKS = list(LABELS)  # what is chosen for all charts at once
LEAD = (
    "How far the similarity of the teacher's continuations with the student's chunk stands above "
    "what any other text would give. The floor that matters is another fork of the same response: "
    "where own and other fork touch, the scores know the topic and not the fork, and a flat "
    "contrast predicts no learning."
)


def section(rows: Sequence[Row]) -> Section | None:
    """Warnings, levels with intervals, profiles over bins, and the values as a table."""
    rows = _fewer(_shared(rows))
    if not rows:
        return None
    warnings = [r["note"] for r in rows if warns(r)]
    said = list(dict.fromkeys(warnings))
    blocks: list[Block] = [Text(note, "bad") for note in said[:WARNINGS]]
    if len(said) > WARNINGS:
        blocks.append(Text(f"{len(said) - WARNINGS} more warnings are in calibration.json."))
    drawn = [_point(r) for r in rows if r["value"] is not None and r["metric"] is not None]
    drawn = [point for point in drawn if point["quantity"] != "warning"]
    panels = [_levels(title, kinds, drawn) for title, kinds in PANELS.items()]
    panels += [_profile(q, [r for r in drawn if r["quantity"] == q]) for q in _binned(drawn)]
    found = [chart for chart in panels if chart is not None]
    if found:
        blocks.append(Charts(found, picks=_options(drawn)))
    blocks.append(_table([r for r in rows if r["bin"] is None and r["quantity"] != "warning"]))
    return Section("calibration", "Calibration", blocks, LEAD)


def _shared(rows: Sequence[Row]) -> list[Row]:
    """Each value once, with the first of the arms that share it and how many do."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        key = tuple(value for name, value in row.items() if name != "arm")
        found.setdefault(key, []).append(row)
    return [
        own[0] | ({"arm": f"{own[0]['arm']} and {len(own) - 1} more"} if len(own) > 1 else {})
        for own in found.values()
    ]


def _fewer(rows: list[Row]) -> list[Row]:
    if len(rows) <= MOST:
        return rows
    ends = {min(row["round"] for row in rows), max(row["round"] for row in rows)}
    seed = min(row["seed"] for row in rows)
    return [row for row in rows if row["seed"] == seed and row["round"] in ends][:MOST]


def _levels(title: str, kinds: tuple[str, ...], points: list[Row]) -> Chart | None:
    own = [p for p in points if p["bin"] is None and p["quantity"].split("/")[0] in kinds]
    if not own:
        return None
    order = list(dict.fromkeys(point["label"] for point in own))
    spec = charts.intervals(own, order, "", PICKS)
    alt = f"{title}, with intervals, a colour for each chunk length"
    return Chart(f"levels-{kinds[0]}", spec, title, alt)


def _binned(points: list[Row]) -> list[str]:
    return list(dict.fromkeys(p["quantity"] for p in points if p["bin"] is not None))


def _profile(quantity: str, points: list[Row]) -> Chart:
    title, axis = BINNED.get(quantity, (label(quantity), "bin"))
    spec = charts.profile([p for p in points if p["bin"] is not None], axis, PICKS)
    return Chart("profile-" + quantity.replace("/", "-"), spec, title, f"{title}, over bins")


def label(quantity: str) -> str:
    """`floor/other-fork` as `floor: other fork`."""
    return quantity.replace("/", ": ").replace("-", " ").replace("_", " ")


def _point(row: Row) -> Row:
    """A point of a chart. `source` names the answers: arm, teacher, seed and round."""
    low = row["value"] if row["low"] is None else row["low"]
    high = row["value"] if row["high"] is None else row["high"]
    source = f"{row['arm']}: {row['teacher']}, round {row['round']}, seed {row['seed']}"
    own = {name: row[name] for name in ("metric", "quantity", "bin", "value", "n")}
    own |= {"low": low, "high": high, "source": source}
    return own | {"label": label(row["quantity"]), "series": f"C={row['chunk_tokens']}"}


def _options(points: list[Row]) -> list[Row]:
    found = {name: list(dict.fromkeys(point[name] for point in points)) for name in PICKS}
    return [
        {"name": name, "label": LABELS[name], "options": [(value, value) for value in values]}
        for name, values in found.items()
    ]


def _table(rows: list[Row]) -> Table:
    head = ["arm", "seed", "round", "teacher", "metric", "C", "quantity", "value", "n", "note"]
    left = len(rows) - LINES
    caption = "The values" + f" (the first {LINES}; {left:,} more are in calibration.json)" * (
        left > 0
    )
    return Table(head, [_line(row) for row in rows[:LINES]], caption, closed=True)


def _line(row: Row) -> list[Cell | Forest]:
    untold = row["value"] is None
    return [
        Cell(str(row["arm"]), "text"),
        Cell(str(row["seed"])),
        Cell(str(row["round"])),
        Cell(str(row["teacher"]), "text"),
        Cell(row["metric"] or "", "text"),
        Cell(str(row["chunk_tokens"])),
        Cell(label(row["quantity"]), "text"),
        Cell(
            "cannot be told" if untold else f"{row['value']:.3f}",
            small="" if row["low"] is None else intervals.bracket(row["low"], row["high"]),
        ),
        Cell(f"{row['n']:,}"),
        Cell(row.get("note") or "", "text"),
    ]
