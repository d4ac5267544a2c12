"""The verdict of several seeds on each contrast: supported, refuted, equivalent or undecided.

The endpoint is sampled accuracy after the last round; of several sets it is the mean over sets of
their own. The primary pair is omniopd minus base and minus shuffled-scores. Both are needed to say
that the method works, so each is tested at the full level (an intersection-union test: Berger 1982,
Technometrics 24). Only if both are supported are the other pre-named contrasts tested, by Holm
among themselves at the same level (a gate: Dmitrienko and Tamhane 2007, Pharmaceutical Statistics
6); else they are exploratory like every contrast that was not named: an interval and no verdict.
One seed, or split dev, gives no verdict either.

supported   the interval is above zero, and p stays below .05: its own, or after Holm
refuted     the interval is below the margin, half of the claimed gain; without a claim below zero
equivalent  it lies within plus and minus the margin; said rather than refuted where both hold,
            unless all of it is below zero
undecided   else, with the seeds or problems that would decide at this difference and these spreads;
            where nothing was solved, or everything, which is no evidence that arms are equal; and
            where a seed of an arm had no signal in any round, so that it is the base student

An interval above zero and below the margin is supported; the report adds that the claimed size is
refuted. Holm guards what is called a gain; refuted and equivalent read the interval as it is.
"""

from collections.abc import Set
from math import sqrt
from typing import Any

import numpy as np

from pipeline.analysis import bootstrap, pooled, results, seeds_by_problems
from pipeline.analysis.results import Evals
from pipeline.analysis.seeds_by_problems import Crossed
from pipeline.stage.run_records import Row

# Gains that arXiv 2606.01476 claims for omniopd, in percent: "up to", on mathematics, with models
# of billions of parameters. Each is read both as points and relative to the other arm's accuracy.
CLAIMS = {"opd": 28.64, "sft": 45.31}
PRIMARY = ("base", "shuffled-scores")  # omniopd minus each; the other pre-named are secondary
ERROR = 1 - bootstrap.LEVEL
SPREADS = ("sd_seeds", "sd_problems", "sd_rest")
MOST_SEEDS = 100  # looked at for what would decide
MOST_PROBLEMS = 100_000
ONE_SEED = "a verdict needs several seeds: add to experiment.seeds"
EXTREMES = {
    bootstrap.NOTHING: "no answer of either arm was right, which is no evidence that they are "
    "equal: evaluate easier problems, or train longer",
    bootstrap.EVERYTHING: "every answer of both arms was right, which is no evidence that they "
    "are equal: evaluate harder problems",
}
UNTRAINED = (
    "such an arm is the base student, and says nothing of what was to be trained: see where the "
    "teacher had no effect"
)
FEW = "more problems that tell the arms apart: raise evaluate.problems"
ON_DEV = "settings are chosen on split dev: a verdict needs evaluate.split: test"


def rows(
    evals: Evals,
    split: str,
    claims: dict[str, float],
    untrained: Set[tuple[str, int]] = frozenset(),
) -> list[Row]:
    """One row a contrast and task; p_holm, margin and needed are null where there is none.

    `untrained` are arms and seeds of which no round had a signal (no_effect.untrained): of a
    contrast with one of them `note` says so, and there is no verdict on it.

    `family` is primary, secondary or exploratory. `p_holm` is the p-value that the verdict reads:
    of the primary pair its own, of a secondary contrast that after Holm. `log_odds` is the
    difference of the two accuracies' log odds. The sd_* are those of the paired difference, between
    seeds, between problems, and of what is left in one seed and problem; null with one seed.
    """
    seeds = sorted({seed for _, seed, _ in evals.tables})
    result: list[Row] = []
    for arm, versus in results.pairs(list(evals.arms)):
        for task in evals.tasks():
            one, other = (pooled.by_seed(evals, name, task) for name in (arm, versus))
            named = arm == "omniopd" and versus in results.NAMED and task == evals.tasks()[-1]
            row: Row = {"arm": arm, "versus": versus, "task": task, "k": evals.samples(task)}
            level = float(pooled.mean(other))
            claim = claims.get(versus) if named else None
            result.append(row | _compared(one, other, row["k"]) | margins(claim, level))
            result[-1] |= {"named": named, "family": _family(versus, named)}
            result[-1]["note"] = (
                results.never((arm, versus), seeds, untrained) or result[-1]["note"]
            )
    judged = len(seeds) > 1 and split == "test"
    adjusted = adjust([row for row in result if row["named"]]) if judged else {}
    return [
        _judged(row, adjusted.get(row["versus"]) if row["named"] else None, split) for row in result
    ]


def _family(versus: str, named: bool) -> str:
    if not named:
        return "exploratory"
    return "primary" if versus in PRIMARY else "secondary"


def adjust(named: list[Row]) -> dict[str, float]:
    """p-values by `versus`: of the primary pair as they are, of the others after Holm.

    The others have one only if both of the primary pair are there and supported.
    """
    own = {row["versus"]: row for row in named}
    primary = {name: row["p"] for name, row in own.items() if name in PRIMARY}
    gate = all(
        name in own and not own[name]["note"] and _decided(own[name], own[name]["p"]) == "supported"
        for name in PRIMARY
    )
    rest = [name for name in own if name not in PRIMARY] if gate else []
    return primary | dict(zip(rest, holm([own[name]["p"] for name in rest]), strict=True))


def _decided(row: Row, p: float) -> str:
    return decide(row["low"], row["high"], p, row["margin"])


def margins(claim: float | None, level: float) -> Row:
    """Half of a claimed gain in percent, read as points and relative to accuracy `level`.

    The margin is the smaller one: harder to refute a claim by, and to call two arms equal by.
    """
    if claim is None:
        return {"claim": None, "margin_points": None, "margin_relative": None, "margin": None}
    points, relative = claim / 200, claim / 200 * level
    return {
        "claim": claim,
        "margin_points": points,
        "margin_relative": relative,
        "margin": min(points, relative),
    }


def holm(p: list[float]) -> list[float]:
    """p-values adjusted for their number."""
    if not p:
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(value) for value in multipletests(p, method="holm")[1]]


def decide(low: float, high: float, p_holm: float, margin: float | None) -> str:
    """The verdict of a pre-named contrast; without a claim the margin is 0."""
    margin = margin or 0.0
    if low > 0 and p_holm < ERROR:
        return "supported"
    if high < 0:
        return "refuted"
    if -margin <= low and high <= margin:
        return "equivalent"
    return "refuted" if high < margin else "undecided"


def needed(difference: Crossed, p_holm: float, margin: float | None) -> str:
    """How many seeds, or problems, would decide at the difference and the spreads found."""
    times = p_holm / difference.p if difference.p > 0 else 1.0
    P = difference.effective or difference.problems

    def decided(seeds: int, problems: int) -> bool:
        number = problems * P / difference.problems
        squares = seeds_by_problems.expected(difference.squares, difference.seeds, P, seeds, number)
        low, high, _, p = seeds_by_problems.interval(difference.value, squares, seeds, number)
        return decide(float(low), float(high), min(1.0, float(p) * times), margin) != "undecided"

    if min(difference.seeds, difference.problems) < 2:
        return (
            ONE_SEED if difference.seeds < 2 else "more than one problem: raise evaluate.problems"
        )
    if difference.few:
        return FEW
    parts = []
    tried = range(difference.seeds + 1, MOST_SEEDS + 1)
    seeds = next((n for n in tried if decided(n, difference.problems)), None)
    if seeds:
        parts.append(f"{seeds} seeds")
    problems = _fewest(difference.problems, lambda n: decided(difference.seeds, n))
    if problems:
        parts.append(f"{problems:,} problems")
    if not parts:
        return (
            f"no number of seeds up to {MOST_SEEDS}, or of problems up to {MOST_PROBLEMS:,}, would "
            "decide at this difference"
        )
    return " or ".join(parts) + " would decide at this difference and these spreads"


def _fewest(above: int, decided: Any) -> int | None:
    """The smallest number above `above` that decides, if MOST_PROBLEMS does: it is monotone."""
    low, high = above, MOST_PROBLEMS
    if high <= low or not decided(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def _compared(one: pooled.Seeds, other: pooled.Seeds, k: int) -> Row:
    """Numbers of a contrast; with one seed those of that run, by bootstrap and paired t."""
    shares = np.stack([seeds_by_problems.shares(one), seeds_by_problems.shares(other)])
    answers = shares[0].size * k
    odds = [bootstrap.log_odds(pooled.mean(arm), answers) for arm in (one, other)]
    row: Row = {"note": bootstrap.note(shares), "log_odds": odds[0] - odds[1]}
    if len(one) > 1:
        difference = seeds_by_problems.difference(one, other)
        return (
            row
            | difference._asdict()
            | {"diff": difference.value, "found": difference}
            | spreads(difference)
        )
    ((seed, first),) = one.items()
    diff = bootstrap.difference(first, other[seed])
    df, p = bootstrap.t_test(first.share_B - other[seed].share_B, first.sets_B)
    row |= {"seeds": 1, "problems": len(first.problems)} | dict.fromkeys(SPREADS)
    return row | {"diff": diff.value, "low": diff.low, "high": diff.high, "df": df, "p": p}


def spreads(found: Crossed) -> Row:
    """Standard deviations of a difference: between seeds, between problems, and of the rest."""
    a, b, c = found.squares
    problems = found.effective or found.problems
    parts = (max(a - c, 0.0) / problems, max(b - c, 0.0) / found.seeds, c)
    return {name: sqrt(part) for name, part in zip(SPREADS, parts, strict=True)}


def _judged(row: Row, p_holm: float | None, split: str) -> Row:
    """The row of verdicts.json."""
    need = None
    if split != "test":
        verdict, need = "no verdict on dev", ON_DEV
    elif row["seeds"] == 1:
        seen = row["low"] > 0 or row["high"] < 0
        verdict, need = "seen in this run" if seen else "no difference seen in this run", ONE_SEED
        if row["note"]:
            verdict = f"{row['note']} in this run"
    elif p_holm is None:
        verdict = "exploratory"
    elif row["note"]:
        verdict, need = f"undecided: {row['note']}", EXTREMES.get(row["note"], UNTRAINED)
    else:
        verdict = _decided(row, p_holm)
        if verdict == "undecided":
            need = needed(row["found"], p_holm, row["margin"])
    numbers = ("arm", "versus", "task", "seeds", "problems", "k", "diff", "low", "high", "df", "p")
    claims = ("claim", "margin_points", "margin_relative", "margin")
    return (
        {name: row[name] for name in numbers}
        | {"p_holm": p_holm, "named": row["named"], "family": row["family"]}
        | {name: row[name] for name in (*claims, "log_odds", *SPREADS, "note")}
        | {"verdict": verdict, "needed": need}
    )
