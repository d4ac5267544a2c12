"""The part of results.md that says what the arms cost, and what experiment.match cut."""

from typing import Any

from tabulate import tabulate

from pipeline.stage.run_records import Row

HEAD = {  # column of the table: column of costs.json, summed over the rounds
    "rollouts": "total_rollouts",
    "student tokens sampled": "total_student_tokens_sampled",
    "trained on": "total_student_tokens_trained",
    "optimizer steps": "total_optimizer_steps",
    "teacher tokens used": "total_teacher_tokens_out_used",
    "alone: in": "total_teacher_tokens_in_alone",
    "alone: out": "total_teacher_tokens_out_alone",
    "alone: dollars": "total_usd_alone",
    "bought: out": "total_teacher_tokens_out_bought",
    "seconds": "total_seconds",
}
UNITS = {
    "teacher_output_tokens": "teacher output tokens",
    "usd": "dollars",
    "student_tokens": "student tokens",
    "optimizer_steps": "optimizer steps",
}


def render(costs: list[Row], match: dict[str, Any] | None) -> str:
    """The section under its heading. `costs` are the rows of costs.json."""
    last = _last(costs)
    body = [[arm, *_means(rows)] for arm, rows in last.items() if arm != "base"]
    means = "Means over the seeds. " if max(map(len, last.values())) > 1 else ""
    parts = [
        f"Sums over the rounds, for each arm as if it were run by itself. {means}Teacher tokens "
        "used are those of the answers in its tables; alone is what an empty store would have had "
        "to buy for them, equal prefixes once; bought is what these runs bought, a cell that arms "
        "share under the first of them. `costs.json` has every round.",
        tabulate(body, ["arm", *HEAD], tablefmt="github", disable_numparse=True),
        _shared([row for rows in last.values() for row in rows]),
    ]
    return "\n\n".join([*parts, *([_matched(costs, match)] if match else [])])


def _last(costs: list[Row]) -> dict[str, list[Row]]:
    """Each arm's last rounds, a row a seed."""
    rounds: dict[tuple[str, int], Row] = {(row["arm"], row["seed"]): row for row in costs}
    found: dict[str, list[Row]] = {}
    for (arm, _), row in rounds.items():
        found.setdefault(arm, []).append(row)
    return found


def _means(rows: list[Row]) -> list[str]:
    return [_mean([row[name] for row in rows], "usd" in name) for name in HEAD.values()]


def _mean(values: list[float | None], dollars: bool) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "no price"
    return f"{sum(known) / len(known):,.{2 if dollars else 0}f}"


def _shared(rows: list[Row]) -> str:
    alone = sum(row["total_teacher_tokens_out_alone"] for row in rows)
    bought = sum(row["total_teacher_tokens_out_bought"] for row in rows)
    seconds = [sum(row[f"total_seconds{which}"] for row in rows) for which in ("", "_spent")]
    return (
        f"Alone the arms and seeds would have bought {alone:,} teacher tokens; together they "
        f"bought {bought:,}, as they share cells and the store. Their cells took {seconds[1]:,.0f} "
        f"seconds, and {seconds[0]:,.0f} if each had run its own."
    )


def _matched(costs: list[Row], match: dict[str, Any]) -> str:
    """How experiment.match capped the arms, and what it cut of each."""
    unit, resource = UNITS[match["resource"]], match["resource"]
    source = "experiment.budget"
    if match["from"] == "ceiling":
        source = "the least that any of them could take at most by its params, not what they took"
    order = "in the order of its prompts"
    if resource == "optimizer_steps":
        order = "from its first one on"
    text = (
        f"`experiment.match: {resource}` caps a round of an arm at {match['cap']:,} {unit} "
        f"({source}), {order}; the rest is not trained on."
    )
    if match["free"]:
        text += f" Not capped, as they use none of it: {', '.join(match['free'])}."
    kind = "steps" if resource == "optimizer_steps" else "prompts"
    body = [_cut(rows, kind) for rows in _capped(costs).values()]
    head = ["arm", f"{unit} a round", f"{kind} kept", f"{kind} cut", "mean weight", "without cut"]
    table = tabulate(body, head, tablefmt="github", disable_numparse=True)
    return f"{text}\n\n{table}"


def _capped(costs: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in costs:
        if row["cap"] is not None:
            found.setdefault(row["arm"], []).append(row)
    return found


def _cut(rows: list[Row], kind: str) -> list[str]:
    """An arm's cells of the table, over its rounds and seeds: range of use, sums, mean weights."""
    used = sorted(row["used"] for row in rows)
    sums = [sum(row[f"{what}_{kind}"] for row in rows) for what in ("kept", "cut")]
    weights = []
    for name in ("mean_weight", "mean_weight_uncut"):
        known = [row[name] for row in rows if row[name] is not None]
        weights.append(f"{sum(known) / len(known):.3f}" if known else "")
    span = f"{used[0]:,}" if used[0] == used[-1] else f"{used[0]:,} to {used[-1]:,}"
    return [rows[0]["arm"], span, *(f"{value:,}" for value in sums), *weights]
