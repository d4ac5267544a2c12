"""Evaluations and run.json files of a plan's arms, gathered into rows of results."""

from collections.abc import Set
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis import bootstrap
from pipeline.analysis.costs import cost
from pipeline.config import params
from pipeline.data import schemas, tables
from pipeline.stage.run_records import Arms, Row, folder, rounds

GRADES = [name for name in schemas.EVALS.names if name != "response"]
NAMED = get_args(params.Named)  # arms that omniopd is compared with


class Evals:
    """The evaluated rounds, each read once, without what was written."""

    def __init__(self, arms: Arms) -> None:
        self.arms = arms
        self.tables = {
            (arm, seed, round_): tables.read(
                folder("evaluate", cells["evaluate"]) / "evals.parquet", schemas.EVALS, GRADES
            )
            for arm, seed, round_, cells in rounds(arms)
            if "evaluate" in cells
        }

    def tasks(self) -> list[str]:
        """The tasks, and `all` where there are several: each weighs alike, whatever its size."""
        names = sorted(
            {t for table in self.tables.values() for t in pc.unique(table["task"]).to_pylist()}
        )
        return [*names, "all"] if len(names) > 1 else names

    def select(self, arm: str, seed: int, round_: int, task: str, decoding: str) -> pa.Table:
        table = self.tables[arm, seed, round_]
        keep = pc.equal(table["decoding"], decoding)
        if task != "all":
            keep = pc.and_(keep, pc.equal(table["task"], task))
        return table.filter(keep)

    def graded(
        self, arm: str, seed: int, round_: int, task: str, decoding: str
    ) -> bootstrap.Graded:
        table = self.select(arm, seed, round_, task, decoding)
        sets = table["task"].to_pylist() if task == "all" else None
        return bootstrap.graded(table["problem_id"].to_pylist(), table["correct"].to_pylist(), sets)

    def last(self, arm: str, seed: int) -> int:
        """The arm's last round, which is evaluated if any is."""
        return max(r for a, s, r, _ in rounds(self.arms) if (a, s) == (arm, seed))

    def samples(self, task: str) -> int:
        """k of avg@k."""
        graded = self.graded(*next(iter(self.tables)), task, "sampled")
        return len(self.select(*next(iter(self.tables)), task, "sampled")) // len(graded.problems)


def results(evals: Evals) -> list[Row]:
    """One row per arm, seed, evaluated round, task and decoding. All numbers finite.

    tokens_used, tokens_bought, usd and seconds are sums over the arm's rounds so far, in which a
    cell that arms share counts for each. tokens_used is what was trained on: with experiment.match
    teacher_output_tokens or usd the answers of the kept prompts, else all in the tables.
    """
    return [
        _result(evals, arm, seed, round_, task, decoding)
        for arm, seed, round_ in evals.tables
        for task in evals.tasks()
        for decoding in ("sampled", "greedy")
    ]


def _result(evals: Evals, arm: str, seed: int, round_: int, task: str, decoding: str) -> Row:
    table = evals.select(arm, seed, round_, task, decoding)
    own = evals.graded(arm, seed, round_, task, decoding)
    base = evals.graded("base", seed, 0, task, decoding)
    interval = bootstrap.mean(own.share_B, sets_B=own.sets_B)
    diff = bootstrap.difference(own, base)
    # of one task over every row, so that it can be recomputed from the table in one line
    accuracy = interval.value
    if own.sets_B is None:
        accuracy = float(np.mean(table["correct"].to_numpy(zero_copy_only=False)))
    spent = cost(evals.arms, arm, seed, round_)
    return {
        "arm": arm,
        "seed": seed,
        "round": round_,
        "task": task,
        "decoding": decoding,
        "k": len(table) // len(own.problems),
        "accuracy": accuracy,
        "low": interval.low,
        "high": interval.high,
        **log_odds(interval, len(table)),
        "diff": diff.value,
        "diff_low": diff.low,
        "diff_high": diff.high,
        "problems": len(own.problems),
        "tokens_used": spent.tokens_used,
        "tokens_bought": spent.tokens_bought,
        "usd": spent.usd,
        "seconds": round(spent.seconds, 3),
        "truncated": _share(pc.equal(table["finish_reason"], "length")),
        "mean_tokens": float(pc.mean(table["tokens"]).as_py()),
    }


def log_odds(interval: bootstrap.Interval, answers: int) -> Row:
    """The interval of an accuracy as log odds; `answers` were graded."""
    names = ("log_odds", "log_odds_low", "log_odds_high")
    return {n: bootstrap.log_odds(v, answers) for n, v in zip(names, interval, strict=True)}


def details(evals: Evals, row: Row) -> Row:
    """The columns that the table prints beside a result: pass@k, extraction, untruncated accuracy.

    pass@k of `all` is the mean over tasks; the other two are shares of all answers.
    """
    table = evals.select(row["arm"], row["seed"], row["round"], row["task"], row["decoding"])
    whole = table.filter(pc.equal(table["finish_reason"], "stop"))
    tasks = [row["task"]] if row["task"] != "all" else evals.tasks()[:-1]
    parts = [table.filter(pc.equal(table["task"], task)) for task in tasks]
    return {
        "pass_at_k": float(np.mean([_pass_at_k(part, row["k"]) for part in parts])),
        "unextracted": _share(pc.is_null(table["extracted"])),
        "untruncated_accuracy": _share(whole["correct"]) if len(whole) else None,
    }


def _pass_at_k(table: pa.Table, k: int) -> float:
    return bootstrap.pass_at_k(table["problem_id"].to_pylist(), table["correct"].to_pylist(), k)


def _share(column: Any) -> float:
    return float(pc.mean(pc.cast(column, pa.float64())).as_py())


def contrasts(evals: Evals, untrained: Set[tuple[str, int]] = frozenset()) -> list[Row]:
    """Paired differences, sampled, last round: omniopd minus pre-named arms, arms minus base.

    `note` says why nothing can be said: nothing was solved, or everything, or an arm and seed is
    `untrained`, of which no round had a signal (no_effect.untrained); else null.
    """
    found = []
    for seed in sorted({seed for _, seed, _ in evals.tables}):
        arms = [arm for arm in evals.arms if f"seed-{seed}" in evals.arms[arm]]
        found += [
            _contrast(evals, arm, versus, seed, task, never((arm, versus), [seed], untrained))
            for arm, versus in pairs(arms)
            for task in evals.tasks()
        ]
    return found


def pairs(arms: list[str]) -> list[tuple[str, str]]:
    """The pairs to compare: omniopd with the pre-named arms, every other arm with base."""
    named = [("omniopd", other) for other in NAMED if {"omniopd", other} <= set(arms)]
    return named + [(arm, "base") for arm in arms if arm not in ("base", "omniopd")]


def never(pair: tuple[str, str], seeds: list[int], untrained: Set[tuple[str, int]]) -> str | None:
    """Which arm of a contrast was not trained, and under which seeds, if not under all."""
    parts = []
    for arm in pair:
        own = [seed for seed in seeds if (arm, seed) in untrained]
        few = f" (seed {', '.join(map(str, own))})" if len(own) < len(seeds) else ""
        parts += [f"{arm}{few}"] * bool(own)
    return f"no round of {' and '.join(parts)} had a signal" if parts else None


def _contrast(
    evals: Evals, arm: str, versus: str, seed: int, task: str, untrained: str | None
) -> Row:
    round_ = evals.last(arm, seed)
    one = evals.graded(arm, seed, round_, task, "sampled")
    other = evals.graded(versus, seed, evals.last(versus, seed), task, "sampled")
    diff = bootstrap.difference(one, other)
    return {
        "arm": arm,
        "versus": versus,
        "seed": seed,
        "round": round_,
        "task": task,
        "diff": diff.value,
        "low": diff.low,
        "high": diff.high,
        "note": untrained or bootstrap.note(np.concatenate([one.share_B, other.share_B])),
    }


def curves(evals: Evals) -> list[Row]:
    """Points of the learning curves: evaluations, and the rollouts' own rewards between them.

    The rollouts of round r are written by the checkpoint after round r - 1.
    """
    found = []
    for arm, seed, round_ in evals.tables:
        task = evals.tasks()[-1]
        graded = evals.graded(arm, seed, round_, task, "sampled")
        interval = bootstrap.mean(graded.share_B, sets_B=graded.sets_B)
        source = "evaluation"
        found.append(_point(arm, seed, round_, source, *interval))
    for arm, seed, round_, cells in rounds(evals.arms):
        if "rollout" not in cells:
            continue
        path = folder("rollout", cells["rollout"]) / "rollouts.parquet"
        table = tables.read(path, schemas.ROLLOUTS, ["prompt_id", "reward"])
        if table["reward"].null_count:
            continue
        graded = bootstrap.graded(table["prompt_id"].to_pylist(), table["reward"].to_pylist())
        interval = bootstrap.mean(graded.share_B)
        found.append(_point(arm, seed, round_ - 1, "rollouts", *interval))
    return found


def _point(
    arm: str, seed: int, round_: int, source: str, value: float, low: float, high: float
) -> Row:
    return {
        "arm": arm,
        "seed": seed,
        "round": round_,
        "source": source,
        "accuracy": value,
        "low": low,
        "high": high,
    }
