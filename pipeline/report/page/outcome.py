"""Results first: verdicts and contrasts as cards, and the table with intervals.

Each function takes plain rows, as they stand in the report's JSON files.
"""

from collections.abc import Sequence
from statistics import fmean

from pipeline.analysis import intervals
from pipeline.report import verdict_text
from pipeline.report.markdown import QUESTIONS
from pipeline.report.page.blocks import (
    Block,
    Card,
    Cards,
    Cell,
    Forest,
    Row,
    Scale,
    Table,
    Text,
    plural,
)

TONES = {"supported": "good", "refuted": "bad", "equivalent": "flat", "undecided": "flat"}
HEAD = (
    "arm",
    "sampled avg@{k}",
    "log odds",
    "difference to base",
    "",
    "greedy",
    "pass@{k}",
    "cut off",
    "no answer",
    "tokens",
    "teacher tokens",
    "bought",
    "seconds",
)


def results(rows: Sequence[Row], pooled: Sequence[Row] = ()) -> list[Block]:
    """The table of each task, its last rounds; with several seeds their means and every seed.

    rows    of results.json, sampled and greedy; the sampled ones of a last round may hold
            pass_at_k, unextracted and untruncated_accuracy too
    pooled  of pooled.json: the intervals over seeds and problems
    """
    last = {(r["arm"], r["seed"]): r["round"] for r in sorted(rows, key=lambda r: r["round"])}
    rows = [row for row in rows if row["round"] == last[row["arm"], row["seed"]]]
    found: list[Block] = []
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for task in sorted(tasks, key=lambda name: name != "all"):
        own = [row for row in rows if row["task"] == task]
        seeds = sorted({row["seed"] for row in own})
        title = f"Task {task}" if len(tasks) > 1 else ""
        if len(seeds) > 1:
            found.append(_means(own, _last(pooled, task), title))
        for seed in seeds:
            name = " ".join([title] * bool(title) + [f"seed {seed}"] * (len(seeds) > 1))
            part = [row for row in own if row["seed"] == seed]
            found.append(_one_seed(part, name, closed=len(seeds) > 1))
    return found


def _one_seed(rows: list[Row], caption: str, closed: bool) -> Table:
    sampled = [row for row in rows if row["decoding"] == "sampled"]
    greedy = {row["arm"]: row for row in rows if row["decoding"] == "greedy"}
    scale = Scale([v for r in sampled for v in (r["diff_low"], r["diff_high"])])
    keys = [{"arm": r["arm"], "seed": r["seed"], "round": r["round"]} for r in sampled]
    body = [_result(row, greedy.get(row["arm"]), scale) for row in sampled]
    head = [name.format(k=sampled[0]["k"]) for name in HEAD]
    return Table(head, body, caption.capitalize(), keys, scale.ends(), closed)


def _result(row: Row, greedy: Row | None, scale: Scale) -> list[Cell | Forest]:
    base = row["arm"] == "base"
    value, low, high = row["diff"], row["diff_low"], row["diff_high"]
    return [
        Cell(row["arm"], "arm"),
        _value(row["accuracy"], row["low"], row["high"], field="accuracy"),
        _log_odds(row),
        Cell("") if base else _value(value, low, high, "+", "diff"),
        Cell("") if base else scale.forest(value, low, high),
        Cell(f"{greedy['accuracy']:.3f}" if greedy else "", field="greedy"),
        Cell(f"{row['pass_at_k']:.3f}" if "pass_at_k" in row else "", field="pass_at_k"),
        Cell(f"{row['truncated']:.1%}", field="truncated"),
        Cell(f"{row['unextracted']:.1%}" if "unextracted" in row else "", field="unextracted"),
        Cell(f"{row['mean_tokens']:.1f}", field="mean_tokens"),
        Cell(f"{row['tokens_used']:,}", field="tokens_used"),
        Cell(f"{row['tokens_bought']:,}", field="tokens_bought"),
        Cell(f"{row['seconds']:.0f}", field="seconds"),
    ]


def _value(value: float, low: float, high: float, sign: str = "", field: str = "") -> Cell:
    shown = intervals.number(value, low, high, sign)
    return Cell(shown, small=intervals.bracket(low, high, sign), field=field)


def _log_odds(row: Row) -> Cell:
    """The log odds of an accuracy; an older report's rows have none. Limits are in results.md."""
    shown = f"{row['log_odds']:+.2f}" if "log_odds" in row else ""
    return Cell(shown, field="log_odds")


def _last(pooled: Sequence[Row], task: str) -> dict[str, Row]:
    """Rows of pooled.json by arm, of its last round."""
    ordered = sorted(pooled, key=lambda row: row["round"])
    return {row["arm"]: row for row in ordered if row["task"] == task}


def _means(rows: list[Row], pooled: dict[str, Row], caption: str) -> Table:
    """One line an arm: over seeds. Without pooled.json the mean, from the lowest to the highest."""
    sampled = [row for row in rows if row["decoding"] == "sampled"]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    lines = {
        arm: pooled.get(arm) or _spread([r for r in sampled if r["arm"] == arm]) for arm in arms
    }
    ends = [line[end] for line in lines.values() for end in ("diff_low", "diff_high")]
    scale = Scale([*ends, *(row["diff"] for row in sampled)])
    body = [_mean(lines[arm], [r for r in rows if r["arm"] == arm], scale) for arm in arms]
    head = ["arm", f"sampled avg@{sampled[0]['k']}", "log odds", "difference to base", ""]
    head += ["greedy", "seeds", "teacher tokens", "bought", "seconds"]
    return Table(head, body, caption, [{"arm": arm} for arm in arms], scale.ends())


def _spread(rows: list[Row]) -> Row:
    values, diffs = [row["accuracy"] for row in rows], [row["diff"] for row in rows]
    return {
        "arm": rows[0]["arm"],
        "accuracy": fmean(values),
        "low": min(values),
        "high": max(values),
        "diff": fmean(diffs),
        "diff_low": min(diffs),
        "diff_high": max(diffs),
    }


def _mean(line: Row, rows: list[Row], scale: Scale) -> list[Cell | Forest]:
    sampled = [row for row in rows if row["decoding"] == "sampled"]
    greedy = [row["accuracy"] for row in rows if row["decoding"] == "greedy"]
    seeds = tuple(row["diff"] for row in sampled)
    value, low, high = line["diff"], line["diff_low"], line["diff_high"]
    base = line["arm"] == "base"
    return [
        Cell(line["arm"], "arm"),
        _value(line["accuracy"], line["low"], line["high"], field="accuracy"),
        _log_odds(line),
        Cell("") if base else _value(value, low, high, "+", "diff"),
        Cell("") if base else scale.forest(value, low, high, seeds),
        Cell(f"{fmean(greedy):.3f}" if greedy else ""),
        Cell(str(len(sampled))),
        Cell(f"{sum(row['tokens_used'] for row in sampled):,}"),
        Cell(f"{sum(row['tokens_bought'] for row in sampled):,}"),
        Cell(f"{sum(row['seconds'] for row in sampled):.0f}"),
    ]


def verdicts(rows: Sequence[Row]) -> list[Block]:
    """The blocks of verdicts.json: a card for each pre-named contrast, a table of the rest."""
    if not rows:
        return []
    scale = Scale([value for row in rows for value in (row["low"], row["high"])])
    named = [row for row in rows if row["named"] and row["verdict"] != "exploratory"]
    rest = [row for row in rows if row not in named]
    found: list[Block] = []
    if any(row["p_holm"] is not None for row in named):
        works = verdict_text.works(named).replace("**", "")
        found.append(Text(works, "good" if works.startswith("omniopd works") else "flat"))
    found += [Cards([_verdict(row, scale) for row in named])] * bool(named)
    if rest:
        table = Table(
            ["arm", "versus", "task", "difference", "", "p"],
            [_exploratory(row, scale) for row in rest],
            "Exploratory contrasts, so no verdict: not named beforehand, or not tested because the "
            "primary pair is not supported",
            scale=scale.ends(),
            closed=True,
        )
        found.append(table)
    return found


def _verdict(row: Row, scale: Scale) -> Card:
    judged = row["p_holm"] is not None
    said = f"{verdict_text.why(row)}.{verdict_text.claim(row)}" if judged else f"{row['needed']}."
    p = f" p = {row['p_holm']:.3g} {verdict_text.level(row)}." if judged else ""
    counts = f"{plural(row['seeds'], 'seed')} and {row['problems']} problems, task {row['task']}."
    return Card(
        row["verdict"],
        TONES.get(row["verdict"].partition(":")[0], "flat"),
        f"{row['arm']} minus {row['versus']}",
        intervals.interval(row["diff"], row["low"], row["high"], "+"),
        f"{said[0].upper()}{said[1:]} {counts}{p}",
        scale.forest(row["diff"], row["low"], row["high"]),
    )


def _exploratory(row: Row, scale: Scale) -> list[Cell | Forest]:
    return [
        Cell(row["arm"], "arm"),
        Cell(row["versus"], "text"),
        Cell(row["task"], "text"),
        _value(row["diff"], row["low"], row["high"], "+"),
        scale.forest(row["diff"], row["low"], row["high"]),
        Cell("" if row.get("p") is None else f"{row['p']:.3g}"),
    ]


def contrasts(rows: Sequence[Row]) -> list[Block]:
    """The blocks of contrasts.json: what one run shows of the predictions, and every contrast."""
    if not rows:
        return []
    scale = Scale([value for row in rows for value in (row["low"], row["high"])])
    seeds = sorted({row["seed"] for row in rows})
    tasks = {row["task"] for row in rows}
    task = "all" if "all" in tasks else max(tasks)
    cards = [
        _seen(row, above, scale, len(seeds) > 1)
        for arm, versus, above in QUESTIONS
        for row in rows
        if (row["arm"], row["versus"], row["task"]) == (arm, versus, task)
    ]
    table = Table(
        ["arm", "versus", "task", "seed", "difference", "", "seen in this run"],
        [_contrast(row, scale) for row in rows],
        "Every contrast, by seed",
        scale=scale.ends(),
        closed=True,
    )
    return [Cards(cards), table] if cards else [table]


def _where(row: Row) -> str:
    return "above zero" if row["low"] > 0 else "below zero" if row["high"] < 0 else "holds zero"


def _seen(row: Row, above: bool, scale: Scale, several: bool) -> Card:
    fits = (row["low"] > 0) == above
    wanted = "above zero" if above else "not above zero"
    seed = f" (seed {row['seed']})" if several else ""
    badge, tone = ("as predicted", "good") if fits else ("not as predicted", "bad")
    text = f"The interval {_place(row)} in this run; the method predicts {wanted}."
    if row.get("note"):
        badge, tone = row["note"], "flat"
        text = f"No evidence either way; the method predicts {wanted}."
    return Card(
        badge,
        tone,
        f"{row['arm']} minus {row['versus']}{seed}",
        intervals.interval(row["diff"], row["low"], row["high"], "+"),
        text,
        scale.forest(row["diff"], row["low"], row["high"]),
    )


def _place(row: Row) -> str:
    return "holds zero" if _where(row) == "holds zero" else f"lies {_where(row)}"


def _contrast(row: Row, scale: Scale) -> list[Cell | Forest]:
    return [
        Cell(row["arm"], "arm"),
        Cell(row["versus"], "text"),
        Cell(row["task"], "text"),
        Cell(str(row["seed"])),
        _value(row["diff"], row["low"], row["high"], "+"),
        scale.forest(row["diff"], row["low"], row["high"]),
        Cell(_where(row), "text"),
    ]
