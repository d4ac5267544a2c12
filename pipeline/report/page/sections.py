"""Sections of the page that a chart leads: learning curves, costs, branch effects.

Each takes plain rows, as they stand in the report's JSON files, and gives None where there are
none.
"""

from collections.abc import Sequence
from statistics import fmean

from pipeline.analysis.intervals import bracket, number
from pipeline.report import collapse_section
from pipeline.report.page import charts
from pipeline.report.page.blocks import (
    Block,
    Cell,
    Chart,
    Charts,
    Forest,
    Row,
    Scale,
    Section,
    Table,
)

MEASURES = {  # of cost; those that the rows have and that are not all zero can be picked
    "teacher_tokens_out_used": "teacher tokens out, used",
    "teacher_tokens_out_trained": "teacher tokens out, trained on",
    "teacher_tokens_out_alone": "teacher tokens out, had it bought alone",
    "teacher_tokens_in_used": "teacher tokens in, used",
    "teacher_tokens_in_alone": "teacher tokens in, had it bought alone",
    "usd_alone": "dollars, had it bought alone",
    "usd_spent": "dollars spent",
    "rollouts": "rollouts",
    "student_tokens_sampled": "student tokens sampled",
    "student_tokens_trained": "student tokens trained on",
    "optimizer_steps": "optimizer steps",
    "seconds": "seconds",
}
PLAIN = {  # of results.json, where there is no costs.json
    "tokens_used": "teacher tokens used",
    "tokens_bought": "teacher tokens bought",
    "usd": "dollars",
    "seconds": "seconds",
}


GAPS = (
    "Dashed: between the marks nothing was evaluated, so these lines only lead the eye from one "
    "mark to the next."
)


def curves(
    points: Sequence[Row], arms: list[str], split: str, pooled: Sequence[Row] = ()
) -> Section | None:
    """The section of curves.json: accuracy after each round, evaluated and of the rollouts.

    With several seeds the evaluated rounds have the intervals of pooled.json.
    """
    panels = (
        ("evaluation", f"Evaluation, {split} problems", "accuracy, sampled"),
        ("rollouts", "The rollouts' own rewards, train problems", "share correct"),
    )
    found = []
    for source, title, axis in panels:
        own = [point for point in points if point["source"] == source]
        lines = begun(own, [point for point in points if point["arm"] == "base"])
        if any(point["round"] > 0 for point in lines):
            known = pooled if source == "evaluation" else ()
            spec = charts.curves(over_seeds(lines, (), known), arms, axis)
            alt = f"{title}: {axis} against optimised rounds, a line for each arm"
            note = GAPS if charts.gaps(lines) else ""
            found.append(Chart(f"curve-{source}", spec, title, alt, note))
    if not found:
        return None
    several = len({point["seed"] for point in points}) > 1
    bands = (
        "Lines are means over seeds; bands of evaluations are 95\u00a0% intervals over seeds and "
        "problems, those of rollouts reach from the lowest seed to the highest."
        if several
        else "Bands are 95\u00a0% bootstrap intervals over problems, conditional on this run."
    )
    lead = (
        f"Accuracy after each round of training; every line begins at the untrained base. {bands}"
    )
    trained = [arm for arm in arms if any(p["arm"] == arm != "base" for p in points)]
    return Section("curves", "Learning curves", [Charts(found, trained)], lead)


def over_seeds(rows: list[Row], costs: Sequence[str], pooled: Sequence[Row] = ()) -> list[Row]:
    """One row an arm and round: the interval of `pooled`, or of the one seed.

    Else the mean of the seeds, from the lowest to the highest.
    """
    task = _headline(pooled)
    known = {(row["arm"], row["round"]): row for row in pooled if row["task"] == task}
    found = []
    for arm, round_ in dict.fromkeys((row["arm"], row["round"]) for row in rows):
        own = [row for row in rows if (row["arm"], row["round"]) == (arm, round_)]
        values = [row["accuracy"] for row in own]
        spread = {"accuracy": fmean(values), "low": min(values), "high": max(values)}
        line = own[0] if len(own) == 1 else known.get((arm, round_), spread)
        numbers = {name: line[name] for name in spread}
        for name in costs:
            if all(row.get(name) is not None for row in own):
                numbers[name] = fmean(row[name] for row in own)
        found.append({"arm": arm, "round": round_, "seeds": len(own)} | numbers)
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


def costs(
    rows: Sequence[Row], results: Sequence[Row], arms: list[str], pooled: Sequence[Row] = ()
) -> Section | None:
    """Accuracy against cost.

    rows     of costs.json: arm, seed, round, and total_NAME of MEASURES, summed up to that round
    results  of results.json; without costs.json its own costs are shown
    """
    task = _headline(results)
    names = MEASURES if rows else PLAIN
    cost = {(row["arm"], row["seed"], row["round"]): row for row in rows}
    shown = []
    for row in results:
        if (row["task"], row["decoding"]) != (task, "sampled"):
            continue
        place = {key: row[key] for key in ("arm", "seed", "round")}
        total = (
            cost.get(tuple(place.values()), {}) if rows else {f"total_{k}": row[k] for k in names}
        )
        spent = {name: total.get(f"total_{name}", 0 if rows else None) for name in names}
        shown.append(place | {k: row[k] for k in ("accuracy", "low", "high")} | spent)
    measures = [name for name in names if any(row.get(name) for row in shown)]
    if not measures:
        return None
    options = [(name, names[name]) for name in measures]
    marks = over_seeds(shown, measures, pooled)
    chart = Chart(
        "costs",
        charts.costs(marks, arms, measures),
        "Sampled accuracy against cost",
        "Accuracy of each arm against what it cost, a mark for each evaluated round",
        picks=[{"name": "measure", "label": "cost measured in", "options": options}],
    )
    present = [arm for arm in arms if any(row["arm"] == arm for row in shown)]
    lead = (
        "Sums up to the evaluated round. What arms share counts for each of them in full, as if it "
        "ran alone."
    )
    return Section("costs", "Cost against accuracy", [Charts([chart], present)], lead)


def _headline(rows: Sequence[Row]) -> str:
    """The task of the page's pictures: all together, where there are several."""
    tasks = {row["task"] for row in rows}
    return "all" if "all" in tasks else max(tasks, default="")


def branches(rows: Sequence[Row]) -> Section | None:
    """The section of branches.json: one round trained with the real scores minus the control's.

    A row without a seed is the mean of the seeds.
    """
    rows = [row for row in rows if row["task"] == _headline(rows)]
    if not rows:
        return None
    shown = [
        {
            "label": _place(row, len({r["seed"] for r in rows}) > 1),
            "series": row["control"],
            "value": row["diff"],
            "low": row["low"],
            "high": row["high"],
        }
        for row in sorted(rows, key=lambda r: (r["round"], r["seed"] is None, r["seed"]))
    ]
    order = list(dict.fromkeys(row["label"] for row in shown))
    spec = charts.intervals(shown, order, "difference in accuracy", [])
    scale = Scale([row[end] for row in shown for end in ("low", "high")])
    table = Table(
        ["control", "round", "seed", "real scores", "control's", "difference", ""],
        [_branch(row, scale) for row in rows],
        scale=scale.ends(),
    )
    title = "Accuracy with the real scores minus with the control's"
    alt = "Difference in accuracy between the real and the control's scores, by round"
    lead = (
        "Each round of omniopd, trained twice from its own checkpoint on the same rollouts, forks "
        "and batches: with the real scores and with a control's. The difference is what the scores "
        "did in that round. Intervals of one seed are over problems, conditional on these "
        "trainings; those of a mean are over seeds and problems."
    )
    blocks: list[Block] = [Charts([Chart("branches", spec, title, alt)]), table]
    return Section("branches", "Branch effects", blocks, lead)


def _place(row: Row, several: bool) -> str:
    seed = "mean of seeds" if row["seed"] is None else f"seed {row['seed']}"
    return f"round {row['round']}" + f", {seed}" * several


def _branch(row: Row, scale: Scale) -> list[Cell | Forest]:
    low, high = row["low"], row["high"]
    return [
        Cell(row["control"], "text"),
        Cell(str(row["round"])),
        Cell("mean" if row["seed"] is None else str(row["seed"])),
        Cell(f"{row['real_accuracy']:.3f}"),
        Cell(f"{row['control_accuracy']:.3f}"),
        Cell(number(row["diff"], low, high, "+"), small=bracket(low, high, "+")),
        scale.forest(row["diff"], low, high),
    ]


def collapse(rows: Sequence[Row]) -> Section | None:
    """Signs of collapse, of collapse.json: a line for the first and last round of each arm."""
    if not rows:
        return None
    head, body = collapse_section.table(rows)
    lines: list[list[Cell | Forest]] = [[Cell(arm, "arm"), *map(Cell, rest)] for arm, *rest in body]
    return Section("collapse", "Signs of collapse", [Table(head, lines)], collapse_section.LEAD)
