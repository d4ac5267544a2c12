"""The effect of the scores alone: each omniopd round against its branches (experiment.branch).

A branch trains from the round's own checkpoint, on its rollouts, forks and batches, and differs in
the scores alone, so the paired difference of the two evaluations is their causal effect in that
round. Of one seed its interval is over problems: two trainings are compared, not two ways of
training. The mean over several seeds has one over seeds and problems crossed.
"""

from tabulate import tabulate

from pipeline.analysis import bootstrap, intervals, pooled, seeds_by_problems
from pipeline.analysis.results import Evals
from pipeline.config.params import METHOD
from pipeline.stage.run_records import Arms, Row

HEAD = ("control", "round", "seed", "real scores", "control", "real minus control")


def effects(evals: Evals, branches: Arms) -> list[Row]:
    """Rows of control, seed, round and task, sampled accuracy; `diff` is real minus control.

    With several seeds, a row with seed null after them: the mean over seeds with its interval over
    seeds x problems, and its two-sided `p`, null in the rows of one seed.
    """
    if not branches:
        return []
    changed = Evals(branches)
    rows = [
        _effect(evals, changed, control, round_, task, [seed])
        for control, seed, round_ in changed.tables
        for task in evals.tasks()
    ]
    groups: dict[tuple[str, int, str], list[int]] = {}
    for row in rows:
        groups.setdefault((row["control"], row["round"], row["task"]), []).append(row["seed"])
    return rows + [
        _effect(evals, changed, *group, seeds) for group, seeds in groups.items() if len(seeds) > 1
    ]


def _effect(
    evals: Evals, changed: Evals, control: str, round_: int, task: str, seeds: list[int]
) -> Row:
    real = {s: evals.graded(METHOD, s, round_, task, "sampled") for s in seeds}
    other = {s: changed.graded(control, s, round_, task, "sampled") for s in seeds}
    seed, p, one = None, None, seeds[0]
    if len(seeds) > 1:
        found = seeds_by_problems.difference(real, other)
        diff, p = found.interval, found.p
    else:
        seed, diff = one, bootstrap.difference(real[one], other[one])
    return {
        "control": control,
        "seed": seed,
        "round": round_,
        "task": task,
        "real_accuracy": pooled.mean(real),
        "control_accuracy": pooled.mean(other),
        "diff": diff.value,
        "low": diff.low,
        "high": diff.high,
        "p": p,
        "problems": len(real[one].problems),
    }


def section(rows: list[Row]) -> str:
    """The part of results.md: a table and what was seen, one sentence a control; or nothing."""
    if not rows:
        return ""
    task = rows[-1]["task"]  # all tasks together, where there are several
    shown = [row for row in rows if row["task"] == task]
    shown.sort(key=lambda row: (row["control"], row["round"], row["seed"] is None, row["seed"]))
    body = [
        [
            row["control"],
            row["round"],
            "mean" if row["seed"] is None else row["seed"],
            f"{row['real_accuracy']:.3f}",
            f"{row['control_accuracy']:.3f}",
            _interval(row),
        ]
        for row in shown
    ]
    controls = dict.fromkeys(row["control"] for row in shown)
    return "\n\n".join(
        [
            "## What the scores did, round by round",
            f"Each round of {METHOD} was trained twice from its own checkpoint, on the same "
            "rollouts, forks and batches: with the real scores and with a control's. The "
            "difference is what the scores did in that round; no teacher was asked for it. Sampled "
            "accuracy; brackets are 95 % intervals: of one seed by bootstrap over problems, "
            "conditional on these trainings; of a mean over seeds and problems crossed.",
            tabulate(body, HEAD, tablefmt="github", disable_numparse=True),
            "\n".join(_sentence(control, shown) for control in controls),
        ]
    )


def _interval(row: Row) -> str:
    return intervals.interval(row["diff"], row["low"], row["high"], "+")


def _sentence(control: str, rows: list[Row]) -> str:
    own = [row for row in rows if row["control"] == control and row["seed"] is not None]
    above = sum(row["low"] > 0 for row in own)
    below = sum(row["high"] < 0 for row in own)
    unit = "rounds" if len({row["seed"] for row in own}) == 1 else "rounds and seeds"
    return (
        f"- {control}: of {len(own)} {unit} the real scores did better in {above} and worse in "
        f"{below}; in {len(own) - above - below} no difference was seen."
    )
