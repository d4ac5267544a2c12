"""results.md: the table with intervals, the settings, and what was seen in plain sentences."""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from pipeline.analysis import score_effects
from pipeline.analysis.costs import Cost, cost
from pipeline.analysis.intervals import interval
from pipeline.analysis.results import Evals, details
from pipeline.calibration import summary
from pipeline.calibration.summary import Calibrated
from pipeline.config.method import Train
from pipeline.method.objectives import declared
from pipeline.report import collapse_section, cost_section, no_effect, unevaluated, verdict_text
from pipeline.stage.run_records import Row, rounds, run_json

HEAD = (
    "arm",
    "sampled avg@k",
    "log odds",
    "diff to base",
    "greedy",
    "pass@k",
    "cut off",
    "no answer",
    "tokens",
    "teacher tokens",
    "bought",
    "seconds",
)
QUESTIONS = (  # arm, versus, is it meant to be above?
    ("omniopd", "base", True),
    ("omniopd", "shuffled-scores", True),
    ("shuffled-scores", "base", False),
    ("wrong-teacher", "base", False),
)

EXACT = {"engine": "engine as it sampled", "pass": "exact pass"}


def render(
    evals: Evals,
    found: dict[str, list[Row]],
    settings: dict[str, Any],
    p: Any,
    calibrated: Sequence[Calibrated] = (),
) -> str:
    """The whole page, from the rows of results, contrasts, pooled and verdicts.

    `p` holds split, sampled_k, per_seed and notes of the report's params.
    """
    rows, contrasts = found["results"], found["contrasts"]
    seeds = sorted({row["seed"] for row in rows})
    looks = (found.get("held_out", []), found.get("judged", []))
    parts = ["# Results\n"]
    if rows:
        parts.append(_basis(rows, seeds, p))
    else:
        parts.append(unevaluated.looked(*looks, graded=False))
        parts.append(unevaluated.markdown(found["agreement"], found["written"], any(looks)))
    for task in evals.tasks():
        title = f"## Task {task}\n\n" if len(evals.tasks()) > 1 else ""
        if len(seeds) > 1:
            parts.append(title + _over_seeds(evals, rows, found["pooled"], task))
        else:
            parts.append(title + _table(evals, rows, task, seeds[0]))
        parts.append(summary.line(calibrated, settings))
    if not rows:
        parts.append(summary.line(calibrated, settings))
    elif len(seeds) > 1:
        parts.append("## Verdicts\n\n" + verdict_text.verdicts(found["verdicts"], p.split))
    else:
        parts.append("## What was seen\n\n" + _sentences(contrasts, evals, seeds))
        if p.split == "dev":
            parts.append(verdict_text.ON_DEV)
    if rows:
        parts.append(unevaluated.looked(*looks, graded=True))
    parts.append(no_effect.section(found.get("no_effect", []), settings))
    parts.append(summary.section(calibrated))
    if found["branches"]:
        parts.append(score_effects.section(found["branches"]))
    parts.append(collapse_section.section(found.get("collapse", [])))
    parts.append("## What it cost\n\n" + cost_section.render(found["costs"], p.match))
    parts.append("## How\n\n" + _how(evals, settings))
    if p.notes:
        parts.append("\n".join(f"- {note}" for note in p.notes))
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _basis(rows: list[Row], seeds: list[int], p: Any) -> str:
    problems = max(row["problems"] for row in rows)
    tasks = list(dict.fromkeys(row["task"] for row in rows if row["task"] != "all"))
    sets = f" Task all is the mean over {', '.join(tasks)}, each weighed alike." * (len(tasks) > 1)
    over = (
        "bootstrap intervals over problems, conditional on this run: one seed, so this is one run"
    )
    if len(seeds) > 1:
        own = "each with a base student of its own" if p.per_seed else "all from one base student"
        over = (
            f"intervals over {len(seeds)} seeds ({', '.join(map(str, seeds))}; {own}) and problems "
            "crossed: they are for the mean over all seeds and problems of this kind. Differences "
            "are paired by seed and problem; the other columns are means over seeds"
        )
    return (
        f"Sampled accuracy is avg@{p.sampled_k} on {problems} problems of split {p.split} after "
        f"the last round; brackets are 95 % {over}. Greedy accuracy never decides: it can rise "
        f"without any teaching signal.{sets}"
    )


def _table(evals: Evals, rows: list[Row], task: str, seed: int) -> str:
    body = []
    for row in rows:
        if (row["task"], row["seed"], row["decoding"]) != (task, seed, "sampled"):
            continue
        if row["round"] == evals.last(row["arm"], seed):
            body.append(_line(row, [_beside(evals, rows, row)]))
    return tabulate(body, HEAD, tablefmt="github", disable_numparse=True)


def _over_seeds(evals: Evals, rows: list[Row], pooled: list[Row], task: str) -> str:
    """One line an arm: `pooled` numbers of its last round, means over seeds beside them."""
    body = []
    for arm in evals.arms:
        own = [
            row
            for row in rows
            if (row["arm"], row["task"], row["decoding"]) == (arm, task, "sampled")
            and row["round"] == evals.last(arm, row["seed"])
        ]
        line = next(
            row
            for row in pooled
            if (row["arm"], row["task"], row["round"]) == (arm, task, own[0]["round"])
        )
        body.append(_line(line, [_beside(evals, rows, row) for row in own]))
    return tabulate(body, HEAD, tablefmt="github", disable_numparse=True)


def _beside(evals: Evals, rows: list[Row], row: Row) -> Row:
    """The columns of a line beside the interval, of one seed."""
    greedy = next(
        r
        for r in rows
        if r["decoding"] == "greedy"
        and all(r[key] == row[key] for key in ("arm", "seed", "round", "task"))
    )
    return row | details(evals, row) | {"greedy": greedy["accuracy"]}


def _line(row: Row, beside: list[Row]) -> list[str]:
    def mean(name: str) -> float:
        return float(sum(b[name] for b in beside) / len(beside))

    return [
        row["arm"],
        interval(row["accuracy"], row["low"], row["high"]),
        f"{row['log_odds']:.2f} [{row['log_odds_low']:.2f}, {row['log_odds_high']:.2f}]",
        ""
        if row["arm"] == "base"
        else interval(row["diff"], row["diff_low"], row["diff_high"], sign="+"),
        f"{mean('greedy'):.3f}",
        f"{mean('pass_at_k'):.3f}",
        f"{mean('truncated'):.1%}",
        f"{mean('unextracted'):.1%}",
        f"{mean('mean_tokens'):.1f}",
        f"{mean('tokens_used'):,.0f}",
        f"{mean('tokens_bought'):,.0f}",
        f"{mean('seconds'):.0f}",
    ]


def _sentences(contrasts: list[Row], evals: Evals, seeds: list[int]) -> str:
    task = evals.tasks()[-1]
    lines = []
    for arm, versus, above in QUESTIONS:
        found = [c for c in contrasts if (c["arm"], c["versus"], c["task"]) == (arm, versus, task)]
        for c in sorted(found, key=lambda c: c["seed"]):
            where = f" (seed {c['seed']})" if len(seeds) > 1 else ""
            lines.append(f"- {_sentence(c, above)}{where}")
    return "\n".join(lines) or "- No contrast that was named beforehand is among these arms."


def _sentence(c: Row, above: bool) -> str:
    what = f"{c['arm']} minus {c['versus']}: {interval(c['diff'], c['low'], c['high'], '+')}"
    if c.get("note"):
        return f"{what}, undecided: {c['note']}. No evidence either way."
    if c["low"] > 0:
        seen = "above zero in this run"
    elif c["high"] < 0:
        seen = "below zero in this run"
    else:
        seen = "the interval holds zero: no difference seen in this run"
    fits = (c["low"] > 0) == above
    wanted = "above zero" if above else "not above zero"
    return f"{what}, {seen}. {'As' if fits else 'NOT as'} the method predicts ({wanted})."


def _how(evals: Evals, settings: dict[str, Any]) -> str:
    """Per arm: the method's numbers, what the round's optimizer did, what it cost."""
    lines = []
    for arm, seed, round_, cells in rounds(evals.arms):
        if "train" not in cells or round_ != evals.last(arm, seed):
            continue
        run, s = run_json("train", cells["train"]), settings[arm]
        spent = cost(evals.arms, arm, seed, round_)
        lines.append(
            f"- **{arm}** seed {seed}: {round_} rounds of {run['steps_per_round']} optimizer steps "
            f"({_algorithm(run['steps_per_round'])}), {_method(s)}; clipped steps "
            f"{run['clipped_share']:.0%}, {spent.tokens_used:,} teacher tokens used"
            f"{_failures(spent)}"
        )
    return "\n".join(lines)


def _failures(spent: Cost) -> str:
    rate = spent.failure_rate
    return "" if rate is None else f", continuation_failure_rate {rate:.4f}"


def _asked(samples: Any) -> str:
    if not isinstance(samples, dict):
        return f"{samples}"
    return f"{samples['first']} to {samples['most']} until {samples['until']['agree']:.0%} agree"


def _teachers(s: dict[str, Any]) -> str:
    found = s["teach"]["teacher"]
    return found if isinstance(found, str) else f"{' and '.join(found)}, {s['prior']['combine']}"


def _algorithm(steps: int) -> str:
    return "the paper's algorithm takes one" if steps > 1 else "as in the paper"


def _method(s: dict[str, Any]) -> str:
    train, parts = s["train"], []
    objective = declared(train["objective"])
    if objective.at_forks:
        parts.append(
            f"{s['forks']['scheduler']} M={s['forks']['max_forks']} C={s['forks']['chunk_tokens']}"
        )
    if not {"targets", "answers"}.isdisjoint(objective.reads):
        asked = _asked(s["teach"]["samples"])
        parts.append(f"N={asked} of {_teachers(s)} ({s['teach']['continuation']})")
    if "targets" in objective.reads:
        parts += [
            f"metric {s['score']['metric']} ({s['score']['source']})",
            f"alpha={s['prior']['alpha']:g} ({s['prior']['source']})",
            f"weight {s['prior']['weight']}",
        ]
    if objective.importance_ratio:
        parts.append(f"correction {train['correction']}")
    if objective.anchor:
        parts.append(f"beta={train['beta']} {train['anchor']}")
    if exact := s["rollout"].get("exact"):
        parts.append(f"entropies of the {EXACT[exact]}")
    its = objective.settings.model_fields.keys() - Train.model_fields.keys()
    parts += [f"{name} {train[name]}" for name in sorted(its)]
    parts += [f"objective {train['objective']}", f"lr={train['lr']}", f"reduce {train['reduce']}"]
    return ", ".join([*parts, f"optimizer {train['optimizer']}"])
