"""The smallest difference that an experiment can see, told before it is trained, by contrast.

How much a difference varies between seeds hangs on what is compared: that to the base student
varies as much as base students do, that to another arm with the same teacher less than a quarter of
it, and so does that to the base student where all seeds share it. So spreads are taken from the
last report in this folder, of pilots or of the seeds that are finished (the sd_* of verdicts.json;
differences themselves are not looked at), if it is of one of the base students of the plan, whose
cells name student and problems; else from ASSUMED.
"""

import json
from collections.abc import Set
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pipeline.analysis import seeds_by_problems
from pipeline.analysis.bootstrap import LEVEL
from pipeline.config import params
from pipeline.config.params import METHOD
from pipeline.plan import expand
from pipeline.plan.blocks import Experiment

REPORT = Path("data/report")
POWER = 0.8
# Assumed sd of the true difference between seeds: of the study's five (LOG.md, 2026-11-25), without
# what 600 problems at 4 samples leave; of omniopd minus each
ASSUMED = {"base": 0.134, "shuffled-scores": 0.133, "opd": 0.023, "sft": 0.030}
ASSUMED |= {"imitate-forks": 0.010}
# where all seeds start from one student: the study's base students differ, and so does what is
# minus them
ONE_STUDENT = {"base": 0.030, "shuffled-scores": 0.080}  # examples/smollm2 had .00 and .08
PROBLEMS = 0.15  # assumed sd of the true difference between problems
WITHIN = 0.16  # assumed variance p (1 - p) of a sampled answer within a problem, 0.25 at most


class Spreads(NamedTuple):
    """The spreads of a paired difference."""

    seeds: float  # sd of the true difference between seeds
    problems: float = PROBLEMS  # sd between problems
    answer: float = 2 * WITHIN  # variance of one sampled answer of each of two arms
    measured: int = 0  # seeds they were estimated from; 0: assumed


def detectable(seeds: int, problems: int, samples: int, spreads: Spreads) -> float:
    """True difference of two arms that is seen with 80 % power: interval at 95 % above zero.

    From the noncentral t at these spreads. With one seed conditional on that run.
    """
    from scipy.special import nctdtrinc, stdtrit

    error, df = standard_error(seeds, problems, samples, spreads)
    return float(nctdtrinc(df, 1 - POWER, stdtrit(df, (1 + LEVEL) / 2))) * error


def standard_error(
    seeds: int, problems: int, samples: int, spreads: Spreads
) -> tuple[float, float]:
    """The standard error of the paired difference, and its degrees of freedom."""
    noise = spreads.answer / samples
    if seeds == 1:
        return sqrt((spreads.problems**2 + noise) / problems), max(problems - 1.0, 1.0)
    squares = seeds_by_problems.Squares(
        problems * spreads.seeds**2 + noise, seeds * spreads.problems**2 + noise, noise
    )
    df = seeds_by_problems.degrees(squares, seeds, max(problems, 2))
    return sqrt(seeds_by_problems.largest(squares) / (seeds * problems)), float(df)


def spreads(students: Set[str] = frozenset(), report: Path = REPORT) -> dict[str, Spreads]:
    """The spreads by pre-named arm that omniopd is compared with; measured where the report has it.

    `students` are the cells of the plan's base students, one a seed or one of all; a report without
    one is of another student or of other problems, whatever lies in the folder.
    """
    assumed = ASSUMED | ONE_STUDENT if len(students) == 1 else ASSUMED
    found = {name: Spreads(sd) for name, sd in assumed.items()}
    for row in _rows(report) if students & _reported(report) else ():
        # of one seed there is no spread
        if row["named"] and row.get("sd_seeds") is not None and not row.get("note"):
            found[row["versus"]] = Spreads(
                row["sd_seeds"], row["sd_problems"], row["sd_rest"] ** 2 * row["k"], row["seeds"]
            )
    return found


def _rows(report: Path) -> list[dict[str, Any]]:
    return list(json.loads((report / "verdicts.json").read_text(encoding="utf-8")))


def _reported(report: Path) -> set[str]:
    """The base students of a report; none of an older version, which has no spreads either."""
    paths = (report / "run.json", report / "verdicts.json")
    if not all(path.is_file() for path in paths):
        return set()
    return set(json.loads(paths[0].read_text(encoding="utf-8")).get("students", "").split())


def _students(file: Experiment) -> set[str]:
    """Cells of the base students of a plan, one a seed or one of all."""
    made, first = expand.Plan(file), file.arm(file.experiment.arms[0])
    prompts = made.prompts(first.prepare)
    own = (made.model(file.experiment.student, first, s, prompts) for s in file.experiment.seeds)
    return {path.rpartition("/")[2] for path in own}


def line(file: Experiment) -> str:
    """The power in words, for `omniopd plan`, `repro` and `run`; with one seed a single line."""
    settings = file.arm(file.experiment.arms[0])
    if not settings.prepare.graded:
        why = f"task {settings.prepare.task} has no checker"
        block = file.base().evaluate
        hows = ["how far the teacher agrees"] * bool(block.agreement)
        if block.judge:
            hows.append(f"what {block.judge.teacher} prefers")
        if hows:
            return f"{why}: evaluated by {' and '.join(hows)} on held-out prompts"
        how = f"trained, not evaluated: {why}"
        return f"{how}. The report shows how far the teacher agrees, round by round"
    first = settings.evaluate
    seeds, problems, samples = len(file.experiment.seeds), first.problems, first.samples
    head = f"smallest difference seen with {POWER:.0%} power: "
    size = f"{seeds} seed{'s' * (seeds > 1)}, {problems} problems, avg@{samples}"
    students = _students(file)
    known = spreads(students)
    if len(students) == 1 and not known["base"].measured:
        known["base"] = _answered_once(known["base"], samples)
    if seeds == 1:
        one = detectable(1, problems, samples, Spreads(0.0))
        return (
            f"{head}{one * 100:.1f} points ({size}; assumed sd of the "
            f"difference between problems {PROBLEMS * 100:.0f} points, of one answer "
            f"{sqrt(WITHIN) * 100:.0f}), in this run only: a verdict needs several seeds"
        )
    arms = ["base", *file.experiment.arms]
    named = [name for name in get_args(params.Named) if METHOD in arms and name in arms]
    smallest = {n: detectable(seeds, problems, samples, known[n]) * 100 for n in named}
    lines = [
        f"  {METHOD} minus {name}: {value:.1f} points ({_source(known[name])})"
        for name, value in smallest.items()
    ]
    if not lines:
        return f"{head}not known, as no contrast that is named beforehand is among these arms"
    return f"{head}{size}, each contrast by itself\n" + "\n".join(lines)


def _answered_once(own: Spreads, samples: int) -> Spreads:
    """Of the one student of all seeds there is one set of answers, whose noise no seed averages."""
    return own._replace(problems=sqrt(own.problems**2 + WITHIN / samples), answer=WITHIN)


def _source(own: Spreads) -> str:
    between = f"sd between seeds {own.seeds * 100:.1f} points, problems {own.problems * 100:.1f}"
    if own.measured:
        return f"{between}, measured on {own.measured} seeds: {REPORT}/verdicts.json"
    return f"{between}, assumed from earlier studies: pilot two of these seeds to measure it"
