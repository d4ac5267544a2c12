"""What several seeds say of each contrast: supported, refuted, equivalent or undecided.

The endpoint is sampled accuracy after the last round. Pre-named contrasts are omniopd minus each
of `results.NAMED` on the headline task, with Holm over them; every other contrast is exploratory:
an interval and no verdict. One seed, or split dev, gives no verdict either.

supported   the interval is above zero, and the p-value stays below .05 after Holm
refuted     the interval is below the margin, half of the claimed gain; without a claim below zero
equivalent  it lies within plus and minus the margin; said rather than refuted where both hold,
            unless all of it is below zero
undecided   else, with the seeds or problems that would decide at this difference and these spreads

An interval above zero and below the margin is supported; the report adds that the claimed size is
refuted. Holm guards what is called a gain; refuted and equivalent read the interval as it is.
"""

from typing import Any

from pipeline import crossed, pooled, results, statistics
from pipeline.crossed import Crossed
from pipeline.results import Evals
from pipeline.runs import Row

# Gains that arXiv 2606.01476 claims for omniopd, in percent: "up to", on mathematics, with models
# of billions of parameters. Each is read both as points and relative to the other arm's accuracy.
CLAIMS = {"opd": 28.64, "sft": 45.31}
ERROR = 1 - statistics.LEVEL
MOST_SEEDS = 100  # looked at for what would decide
MOST_PROBLEMS = 100_000
ONE_SEED = "a verdict needs several seeds: add to experiment.seeds"
ON_DEV = "settings are chosen on split dev: a verdict needs evaluate.split: test"


def rows(evals: Evals, split: str, claims: dict[str, float]) -> list[Row]:
    """One row a contrast and task; p_holm, margin and needed are null where there is none."""
    seeds = sorted({seed for _, seed, _ in evals.tables})
    found: list[tuple[Row, bool]] = []
    for arm, versus in results.pairs(list(evals.arms)):
        for task in evals.tasks():
            one, other = (pooled.by_seed(evals, name, task) for name in (arm, versus))
            named = arm == "omniopd" and versus in results.NAMED and task == evals.tasks()[-1]
            row: Row = {"arm": arm, "versus": versus, "task": task, "k": evals.samples(task)}
            level = float(crossed.shares(other).mean())
            claim = claims.get(versus) if named else None
            found.append((row | _compared(one, other) | margins(claim, level), named))
    judged = len(seeds) > 1 and split == "test"
    adjusted = iter(holm([row["p"] for row, named in found if named]) if judged else [])
    return [
        _judged(row, named, next(adjusted) if judged and named else None, split)
        for row, named in found
    ]


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


def needed(found: Crossed, p_holm: float, margin: float | None) -> str:
    """How many seeds, or problems, would decide at the difference and the spreads found."""
    times = p_holm / found.p if found.p > 0 else 1.0

    def decided(seeds: int, problems: int) -> bool:
        squares = crossed.expected(found.squares, found.seeds, found.problems, seeds, problems)
        low, high, _, p = crossed.interval(found.value, squares, seeds, problems)
        return decide(float(low), float(high), min(1.0, float(p) * times), margin) != "undecided"

    if min(found.seeds, found.problems) < 2:
        return ONE_SEED if found.seeds < 2 else "more than one problem: raise evaluate.problems"
    parts = []
    tried = range(found.seeds + 1, MOST_SEEDS + 1)
    seeds = next((n for n in tried if decided(n, found.problems)), None)
    if seeds:
        parts.append(f"{seeds} seeds")
    problems = _fewest(found.problems, lambda n: decided(found.seeds, n))
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


def _compared(one: pooled.Seeds, other: pooled.Seeds) -> Row:
    """Numbers of a contrast; with one seed those of that run, by bootstrap and paired t."""
    if len(one) > 1:
        found = crossed.difference(one, other)
        return found._asdict() | {"diff": found.value, "found": found}
    ((seed, first),) = one.items()
    diff = statistics.difference(first, other[seed])
    df, p = statistics.t_test(first.share_B - other[seed].share_B)
    counts = {"seeds": 1, "problems": len(first.problems)}
    return counts | {"diff": diff.value, "low": diff.low, "high": diff.high, "df": df, "p": p}


def _judged(row: Row, named: bool, p_holm: float | None, split: str) -> Row:
    """The row of verdicts.json."""
    need = None
    if split != "test":
        verdict, need = "no verdict on dev", ON_DEV
    elif row["seeds"] == 1:
        seen = row["low"] > 0 or row["high"] < 0
        verdict, need = "seen in this run" if seen else "no difference seen in this run", ONE_SEED
    elif not named or p_holm is None:
        verdict = "exploratory"
    else:
        verdict = decide(row["low"], row["high"], p_holm, row["margin"])
        if verdict == "undecided":
            need = needed(row["found"], p_holm, row["margin"])
    numbers = ("arm", "versus", "task", "seeds", "problems", "k", "diff", "low", "high", "df", "p")
    claims = ("claim", "margin_points", "margin_relative", "margin")
    return (
        {name: row[name] for name in numbers}
        | {"p_holm": p_holm, "named": named}
        | {name: row[name] for name in claims}
        | {"verdict": verdict, "needed": need}
    )
