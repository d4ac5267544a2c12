"""verdicts.json in plain sentences, and how numbers with an interval are written."""

from pipeline.analysis.intervals import interval
from pipeline.stage.run_records import Row

ON_DEV = "Settings are chosen here, on split dev: no verdict. The final report reads split test."
HEAD = (
    "Named beforehand; p-values are two-sided. Both of the primary pair, omniopd minus base and "
    "minus shuffled-scores, have to be supported, so each is tested at the full level. Only if "
    "both are, the others are tested, adjusted together after Holm. Claims are those of "
    "arXiv 2606.01476 (up to, on mathematics, at scale) unless `experiment.claims` says otherwise."
)
CLOSED = "named beforehand, but the primary pair is not supported, so no verdict"
EXPLORATORY = "Exploratory, so no verdict. Where no reason is given it was not named beforehand."
MEANS = {
    "supported": "the interval is above zero",
    "equivalent": "the interval lies within the margin on both sides of zero",
}


def verdicts(rows: list[Row], split: str) -> str:
    """The verdict section: pre-named contrasts, whether omniopd works, then the rest."""
    several = len({row["task"] for row in rows}) > 1
    if split != "test":
        return "\n".join([ON_DEV, "", *(f"- {_contrast(row, several)}." for row in rows)])
    named = [row for row in rows if row["named"] and row["verdict"] != "exploratory"]
    closed = [row for row in rows if row["named"] and row["verdict"] == "exploratory"]
    parts = [
        HEAD,
        "\n".join(f"- {_verdict(row)}" for row in named)
        or "- No contrast that was named beforehand is among these arms.",
        works(named),
    ]
    others = [f"- {_contrast(row, several)}: {CLOSED}." for row in closed]
    others += [f"- {_contrast(row, several)}." for row in rows if not row["named"]]
    if others:
        parts.append(f"{EXPLORATORY}\n\n" + "\n".join(others))
    return "\n\n".join(part for part in parts if part)


def _contrast(row: Row, several: bool = False) -> str:
    task = f" (task {row['task']})" if several else ""
    note = row.get("note") or ""
    said = f" ({note})" if note and note not in row["verdict"] else ""
    return (
        f"{row['arm']} minus {row['versus']}{task}: "
        f"{interval(row['diff'], row['low'], row['high'], '+')}, p {_p(row['p'])}{said}"
    )


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below .001"


def _verdict(row: Row) -> str:
    own = "" if row.get("family") == "primary" else f"{_p(row['p_holm'])} "
    found = f"{_contrast(row)}, {own}{level(row)}: **{row['verdict']}**"
    return f"{found}: {why(row)}.{claim(row)}"


def level(row: Row) -> str:
    """The test behind the p-value of a pre-named contrast's verdict."""
    return "at the full level" if row.get("family") == "primary" else "after Holm"


def why(row: Row) -> str:
    """The reason for the verdict of a pre-named contrast."""
    found = MEANS.get(row["verdict"])
    if row["verdict"] == "supported" and row.get("family") != "primary":
        found = "the interval is above zero, and stays so after Holm"
    if row["verdict"] == "refuted":
        below = row["high"] < 0 or row["margin"] is None
        found = f"the interval is below {'zero' if below else 'half of the claimed gain'}"
    if row["verdict"] == "equivalent" and row["margin"] is None:
        found = "every answer of the one has the grade of the other's"
    if row["verdict"].startswith("undecided"):
        found = row["needed"]
    return str(found)


def claim(row: Row) -> str:
    """The claimed gain and both readings of its half; whether its size is refuted."""
    if row["claim"] is None or row.get("note"):  # a note: nothing was seen of any gain
        return ""
    points, relative = row["margin_points"] * 100, row["margin_relative"] * 100
    text = (
        f" The claim is +{row['claim']:g} %; half of it is {points:.1f} points, or {relative:.1f} "
        f"points relative to {row['versus']}, and the smaller is the margin"
    )
    both = (("in points", "margin_points"), ("relative", "margin_relative"))
    below = [reading for reading, name in both if row["high"] < row[name]]
    if not below:
        return text + "; a gain of that size is not excluded."
    return text + f"; the interval is below half of the claim, read {' and '.join(below)}."


def works(named: list[Row]) -> str:
    """The method works if it beats both the student it began with and shuffled scores."""
    found = {row["versus"]: row["verdict"] for row in named}
    missing = [name for name in ("base", "shuffled-scores") if name not in found]
    if missing:
        were = "were" if len(missing) > 1 else "was"
        return f"Whether omniopd works cannot be said: {' and '.join(missing)} {were} not compared."
    if all(found[name] == "supported" for name in ("base", "shuffled-scores")):
        return "**omniopd works here**: it is above base and above shuffled-scores."
    return (
        "**That omniopd works is not shown here**: both differences have to be supported; that to "
        f"base is {found['base']}, that to shuffled-scores {found['shuffled-scores']}."
    )
