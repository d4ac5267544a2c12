"""Sections of the page that a chart leads: learning curves, costs, branch effects.

Each takes plain rows, as they stand in the report's JSON files, and gives None where there are
none.
"""

from collections.abc import Sequence
from statistics import fmean

from pipeline.page import charts
from pipeline.page.blocks import (
    Block,
    Cell,
    Chart,
    Charts,
    Row,
    Scale,
    Section,
    Table,
    bracket,
)

MEASURES = {  # of cost; those that the rows have and that are not all zero can be picked
    "tokens_used": "teacher tokens used",
    "tokens_out": "teacher tokens out",
    "tokens_in": "teacher tokens in",
    "tokens_bought": "teacher tokens bought",
    "tokens_alone": "teacher tokens, bought alone",
    "usd": "dollars",
    "usd_alone": "dollars, bought alone",
    "rollouts": "rollouts",
    "student_tokens": "student tokens",
    "optimizer_steps": "optimizer steps",
    "seconds": "seconds",
}


def curves(points: Sequence[Row], arms: list[str], split: str) -> Section | None:
    """Of curves.json: accuracy after each round, evaluated and of the rollouts themselves."""
    panels = (
        ("evaluation", f"Evaluation, {split} problems", "accuracy, sampled"),
        ("rollouts", "The rollouts' own rewards, train problems", "share correct"),
    )
    found = []
    for source, title, axis in panels:
        own = [point for point in points if point["source"] == source]
        lines = begun(own, [point for point in points if point["arm"] == "base"])
        if any(point["round"] > 0 for point in lines):
            spec = charts.curves(over_seeds(lines, ()), arms, axis)
            alt = f"{title}: {axis} against optimised rounds, a line for each arm"
            found.append(Chart(f"curve-{source}", spec, title, alt))
    if not found:
        return None
    several = len({point["seed"] for point in points}) > 1
    bands = (
        "Lines are means over the seeds, bands reach from the lowest seed to the highest."
        if several
        else "Bands are 95\u00a0% bootstrap intervals over problems, conditional on this run."
    )
    lead = (
        f"Accuracy after each round of training; every line begins at the untrained base. {bands}"
    )
    trained = [arm for arm in arms if any(p["arm"] == arm != "base" for p in points)]
    return Section("curves", "Learning curves", [Charts(found, trained)], lead)


def over_seeds(rows: list[Row], costs: Sequence[str]) -> list[Row]:
    """One row an arm and round: of several seeds the mean, from the lowest seed to the highest."""
    found = []
    for arm, round_ in dict.fromkeys((row["arm"], row["round"]) for row in rows):
        own = [row for row in rows if (row["arm"], row["round"]) == (arm, round_)]
        values = [row["accuracy"] for row in own]
        several = len(own) > 1
        found.append(
            {
                "arm": arm,
                "round": round_,
                "seeds": len(own),
                "accuracy": fmean(values),
                "low": min(values) if several else own[0]["low"],
                "high": max(values) if several else own[0]["high"],
            }
            | {name: fmean(row[name] for row in own) for name in costs if name in own[0]}
        )
    return found


def begun(points: list[Row], bases: list[Row]) -> list[Row]:
    """The points of the trained arms; where an arm has none at round 0, the base's."""
    base = {p["seed"]: p for p in bases if p["source"] == "evaluation"}
    lines = [p for p in points if p["arm"] != "base"]
    for arm, seed in dict.fromkeys((p["arm"], p["seed"]) for p in lines):
        own = [p for p in lines if (p["arm"], p["seed"]) == (arm, seed)]
        if seed in base and all(p["round"] > 0 for p in own):
            lines.append(base[seed] | {"arm": arm})
    return sorted(lines, key=lambda p: (p["arm"], p["seed"], p["round"]))


def costs(rows: Sequence[Row], results: Sequence[Row], arms: list[str]) -> Section | None:
    """Accuracy against cost.

    rows     of costs.json: arm, seed, round and any of MEASURES, summed up to that round
    results  of results.json; without costs.json its own costs are shown
    """
    tasks = {row["task"] for row in results}
    task = "all" if "all" in tasks else max(tasks, default="")
    cost = {(row["arm"], row["seed"], row["round"]): row for row in rows}
    shown = []
    for row in results:
        if (row["task"], row["decoding"]) != (task, "sampled"):
            continue
        place = {key: row[key] for key in ("arm", "seed", "round")}
        spent = {k: row[k] for k in MEASURES if k in row} | {
            key: value
            for key, value in cost.get(tuple(place.values()), {}).items()
            if key in MEASURES
        }
        shown.append(place | {k: row[k] for k in ("accuracy", "low", "high")} | spent)
    measures = [name for name in MEASURES if any(row.get(name) for row in shown)]
    if not measures:
        return None
    options = [(name, MEASURES[name]) for name in measures]
    chart = Chart(
        "costs",
        charts.costs(over_seeds(shown, measures), arms, measures),
        "Sampled accuracy against cost",
        "Accuracy of each arm against what it cost, a mark for each evaluated round",
        picks=[{"name": "measure", "label": "cost measured in", "options": options}],
    )
    present = [arm for arm in arms if any(row["arm"] == arm for row in shown)]
    lead = (
        "Sums up to the evaluated round. What arms share counts for each of them in full, as if it "
        "ran alone. Of several seeds a mark is the mean, its line from the lowest to the highest."
    )
    return Section("costs", "Cost against accuracy", [Charts([chart], present)], lead)


def branches(rows: Sequence[Row]) -> Section | None:
    """Of branches.json: one round trained with the real scores minus with the control's."""
    if not rows:
        return None
    several = len({row["seed"] for row in rows}) > 1
    tasks = len({row["task"] for row in rows}) > 1
    shown = [
        {
            "label": " · ".join(
                [f"round {r['round']}"] + [f"seed {r['seed']}"] * several + [str(r["task"])] * tasks
            ),
            "series": r["control"],
            "value": r["diff"],
            "low": r["low"],
            "high": r["high"],
        }
        for r in rows
    ]
    order = list(dict.fromkeys(row["label"] for row in shown))
    title = "accuracy with the real scores minus with the control's"
    spec = charts.intervals(shown, order, "difference in accuracy", [])
    scale = Scale([value for row in rows for value in (row["low"], row["high"])])
    table = Table(
        ["control", "seed", "round", "task", "real", "control", "difference", ""],
        [
            [
                Cell(row["control"], "text"),
                Cell(str(row["seed"])),
                Cell(str(row["round"])),
                Cell(row["task"], "text"),
                Cell(f"{row['real']:.3f}"),
                Cell(f"{row['control_accuracy']:.3f}"),
                Cell(f"{row['diff']:+.3f}", small=bracket(row["low"], row["high"], "+")),
                scale.forest(row["diff"], row["low"], row["high"]),
            ]
            for row in rows
        ],
        scale=scale.ends(),
    )
    alt = "Difference in accuracy between the real and the control's scores, by round"
    lead = (
        "From each round's own checkpoint, rollouts, forks and batch order, trained once with the "
        "real scores and once with the control's: a paired effect of the scores alone."
    )
    blocks: list[Block] = [Charts([Chart("branches", spec, title.capitalize(), alt)]), table]
    return Section("branches", "Branch effects", blocks, lead)
