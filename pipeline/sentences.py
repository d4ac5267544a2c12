"""verdicts.json in plain sentences."""

from pipeline.results import Row

ON_DEV = "Settings are chosen here, on split dev: no verdict. The final report reads split test."
MEANS = {
    "supported": "the interval is above zero, and stays so after Holm",
    "equivalent": "the interval lies within the margin on both sides of zero",
}


def verdicts(rows: list[Row], split: str) -> str:
    """The verdict section: pre-named contrasts, whether omniopd works, then the rest."""
    if split != "test":
        return "\n".join([ON_DEV, "", *(f"- {_contrast(row)}." for row in rows)])
    named = [row for row in rows if row["named"]]
    parts = [
        "\n".join(f"- {_verdict(row)}" for row in named)
        or "- No contrast that was named beforehand is among these arms.",
        _works(named),
    ]
    others = [f"- {_contrast(row)}." for row in rows if not row["named"]]
    if others:
        parts.append("Exploratory, not named beforehand, so no verdict:\n\n" + "\n".join(others))
    return "\n\n".join(part for part in parts if part)


def _contrast(row: Row) -> str:
    task = f" (task {row['task']})" if not row["named"] else ""
    return (
        f"{row['arm']} minus {row['versus']}{task}: {row['diff']:+.3f} "
        f"[{row['low']:+.3f}, {row['high']:+.3f}], p {_p(row['p'])}"
    )


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below .001"


def _verdict(row: Row) -> str:
    found = f"{_contrast(row)}, {_p(row['p_holm'])} after Holm: **{row['verdict']}**"
    why = MEANS.get(row["verdict"])
    if row["verdict"] == "refuted":
        below = row["high"] < 0 or row["margin"] is None
        why = f"the interval is below {'zero' if below else 'half of the claimed gain'}"
    if row["verdict"] == "undecided":
        why = row["needed"]
    return f"{found}: {why}.{_claim(row)}"


def _claim(row: Row) -> str:
    """The claimed gain and both readings of its half; whether its size is refuted."""
    if row["claim"] is None:
        return ""
    text = (
        f" Claimed is up to +{row['claim']:g} % (on mathematics, at scale); half of it is "
        f"{row['margin_points'] * 100:.1f} points, or {row['margin_relative'] * 100:.1f} relative "
        f"to {row['versus']}, and the smaller is the margin"
    )
    both = (("in points", "margin_points"), ("relative", "margin_relative"))
    below = [reading for reading, name in both if row["high"] < row[name]]
    if not below:
        return text + "; a gain of that size is not excluded."
    return text + f"; the interval is below it read {' and '.join(below)}."


def _works(named: list[Row]) -> str:
    """The method works if it beats both the student it began with and shuffled scores."""
    found = {row["versus"]: row["verdict"] for row in named}
    missing = [name for name in ("base", "shuffled-scores") if name not in found]
    if missing:
        return f"Whether omniopd works cannot be said: {' and '.join(missing)} was not compared."
    if all(found[name] == "supported" for name in ("base", "shuffled-scores")):
        return "**omniopd works here**: it is above base and above shuffled-scores."
    return "**That omniopd works is not shown here**: it takes both base and shuffled-scores."
