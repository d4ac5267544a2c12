"""The smallest difference that an experiment can see, told before it is trained."""

from math import sqrt

from pipeline import crossed
from pipeline.experiment import Experiment
from pipeline.statistics import LEVEL

POWER = 0.8
SEEDS = 0.05  # assumed sd of the true difference between seeds
PROBLEMS = 0.15  # assumed sd of the true difference between problems
WITHIN = 0.16  # assumed variance p (1 - p) of a sampled answer within a problem, 0.25 at most


def detectable(seeds: int, problems: int, samples: int) -> float:
    """True difference of two arms that is seen with 80 % power: interval at 95 % above zero.

    From the noncentral t at the assumed spreads. With one seed conditional on that run.
    """
    from scipy.special import nctdtrinc, stdtrit

    error, df = standard_error(seeds, problems, samples)
    return float(nctdtrinc(df, 1 - POWER, stdtrit(df, (1 + LEVEL) / 2))) * error


def standard_error(seeds: int, problems: int, samples: int) -> tuple[float, float]:
    """Of the paired difference at the assumed spreads, with its degrees of freedom."""
    noise = 2 * WITHIN / samples  # of two arms
    if seeds == 1:
        return sqrt((PROBLEMS**2 + noise) / problems), max(problems - 1.0, 1.0)
    squares = crossed.Squares(problems * SEEDS**2 + noise, seeds * PROBLEMS**2 + noise, noise)
    df = crossed.degrees(squares, seeds, max(problems, 2))
    return sqrt(crossed.largest(squares) / (seeds * problems)), float(df)


def line(file: Experiment) -> str:
    """One line for `omniopd plan`, `repro` and `run`, with all that it assumes."""
    first = file.arm(file.experiment.arms[0]).evaluate
    seeds, problems, samples = len(file.experiment.seeds), first.problems, first.samples
    smallest = detectable(seeds, problems, samples)
    between = f"between seeds {SEEDS * 100:.0f} and " if seeds > 1 else ""
    scope = "" if seeds > 1 else ", in this run only: a verdict needs several seeds"
    return (
        f"smallest difference seen with {POWER:.0%} power: {smallest * 100:.1f} points "
        f"({seeds} seed{'s' * (seeds > 1)}, {problems} problems, avg@{samples}; assumed sd of the "
        f"difference {between}between problems {PROBLEMS * 100:.0f} points, of one answer "
        f"{sqrt(WITHIN) * 100:.0f}){scope}"
    )
