"""Of calibration.json: does the similarity at a fork say anything about that fork?

rows  arm, seed, round, teacher, metric, chunk_tokens, quantity, bin, value, low, high, n; `bin`
      is empty where the quantity is one number, otherwise the profile's place
"""

from collections.abc import Sequence

from pipeline.page import charts
from pipeline.page.blocks import Block, Cell, Chart, Charts, Forest, Row, Section, Table, bracket

MOST = 4000  # rows embedded; above it first and last round of the first seed
LABELS = {  # of quantities whose names do not say it
    "auroc": "AUROC of k_sem for correct",
    "shrinkage": "shrinkage by the prior",
    "split_half": "split-half reliability of k_sem",
}
PICKS = ("arm", "seed", "round", "teacher", "metric")


def section(rows: Sequence[Row]) -> Section | None:
    """Levels and reliabilities with intervals, profiles over bins, and all as a table."""
    rows = _fewer(list(rows))
    if not rows:
        return None
    single = [_point(row) for row in rows if _empty(row["bin"])]
    binned = [_point(row) for row in rows if not _empty(row["bin"])]
    found: list[Chart] = []
    if single:
        order = list(dict.fromkeys(row["label"] for row in single))
        names = _varying(single)
        spec = charts.intervals(single, order, "value", names)
        alt = "Each quantity with its interval, a colour for each chunk length"
        found.append(Chart("calibration", spec, "Levels", alt, picks=_options(single, names)))
    for quantity in dict.fromkeys(row["quantity"] for row in binned):
        own = [row for row in binned if row["quantity"] == quantity]
        names = _varying(own)
        title = label(quantity).capitalize()
        found.append(
            Chart(
                f"profile-{quantity}".replace("_", "-"),
                charts.profile(own, "bin", names),
                title,
                f"{title} over its bins",
                picks=_options(own, names),
            )
        )
    blocks: list[Block] = [Charts([chart]) for chart in found[:1]]
    blocks += [Charts(found[1:])] * bool(found[1:])
    blocks += [_table(rows)]
    lead = (
        "How far the similarity of the teacher's continuations with the student's chunk stands "
        "above what any other text would give. The floor that matters is another fork of the same "
        "response: where the two touch, the scores know the topic and not the fork."
    )
    return Section("calibration", "Calibration", blocks, lead)


def label(quantity: str) -> str:
    return LABELS.get(quantity, quantity.replace("_", " ").replace("-", " "))


def _empty(bin_: object) -> bool:
    return bin_ is None or bin_ == ""


def _point(row: Row) -> Row:
    series = f"C={row['chunk_tokens']}"
    low = row["value"] if row["low"] is None else row["low"]
    high = row["value"] if row["high"] is None else row["high"]
    return row | {"label": label(row["quantity"]), "series": series, "low": low, "high": high}


def _fewer(rows: list[Row]) -> list[Row]:
    if len(rows) <= MOST:
        return rows
    ends = {min(row["round"] for row in rows), max(row["round"] for row in rows)}
    seed = min(row["seed"] for row in rows)
    return [row for row in rows if row["seed"] == seed and row["round"] in ends][:MOST]


def _varying(rows: list[Row]) -> list[str]:
    return [name for name in PICKS if len({row[name] for row in rows}) > 1]


def _options(rows: list[Row], names: list[str]) -> list[Row]:
    return [
        {
            "name": name,
            "label": name,
            "options": [(value, str(value)) for value in dict.fromkeys(r[name] for r in rows)],
        }
        for name in names
    ]


def _table(rows: list[Row]) -> Table:
    head = ["arm", "seed", "round", "teacher", "metric", "C", "quantity", "bin", "value", "n"]
    body: list[list[Cell | Forest]] = [
        [
            Cell(str(row["arm"]), "text"),
            Cell(str(row["seed"])),
            Cell(str(row["round"])),
            Cell(str(row["teacher"]), "text"),
            Cell(str(row["metric"]), "text"),
            Cell(str(row["chunk_tokens"])),
            Cell(label(row["quantity"]), "text"),
            Cell("" if _empty(row["bin"]) else str(row["bin"]), "text"),
            Cell(
                f"{row['value']:.3f}",
                small="" if row["low"] is None else bracket(row["low"], row["high"]),
            ),
            Cell(f"{row['n']:,}"),
        ]
        for row in rows
    ]
    return Table(head, body, "Every number", closed=True)
