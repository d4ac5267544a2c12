"""Accuracies of arms over seeds x problems; of task `all` the mean over the tasks' own."""

from pipeline.analysis import bootstrap, seeds_by_problems
from pipeline.analysis.results import Evals, log_odds
from pipeline.stage.run_records import Row

Seeds = dict[int, bootstrap.Graded]  # an arm's grades by seed


def by_seed(evals: Evals, arm: str, task: str, round_: int | None = None) -> Seeds:
    """An arm's sampled grades after `round_`, or its last one, by seed."""
    seeds = sorted({s for a, s, r in evals.tables if a == arm and round_ in (None, r)})
    return {
        s: evals.graded(arm, s, evals.last(arm, s) if round_ is None else round_, task, "sampled")
        for s in seeds
    }


def mean(arm: Seeds) -> float:
    """Accuracy over seeds, and over sets where there are several."""
    return float(
        bootstrap.macro(seeds_by_problems.shares(arm), next(iter(arm.values())).sets_B).mean()
    )


def rows(evals: Evals) -> list[Row]:
    """Sampled accuracy and difference to base over seeds x problems; one seed: of that run."""
    found = []
    for arm, round_ in dict.fromkeys((arm, round_) for arm, _, round_ in evals.tables):
        for task in evals.tasks():
            own, base = by_seed(evals, arm, task, round_), by_seed(evals, "base", task, 0)
            base = {seed: base[seed] for seed in own}
            one = next(iter(own))
            accuracy = bootstrap.mean(own[one].share_B, sets_B=own[one].sets_B)
            diff = bootstrap.difference(own[one], base[one])
            if len(own) > 1:
                accuracy = seeds_by_problems.accuracy(own).interval
                diff = seeds_by_problems.difference(own, base).interval
            answers = len(own) * len(own[one].problems) * evals.samples(task)
            found.append(
                {
                    "arm": arm,
                    "round": round_,
                    "task": task,
                    "seeds": len(own),
                    "problems": len(own[one].problems),
                    "k": evals.samples(task),
                    "accuracy": accuracy.value,
                    "low": accuracy.low,
                    "high": accuracy.high,
                    **log_odds(accuracy, answers),
                    "diff": diff.value,
                    "diff_low": diff.low,
                    "diff_high": diff.high,
                }
            )
    return found
