"""Accuracies and their intervals: bootstrap over problems, conditional on one run."""

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np

from pipeline import seeds
from pipeline.errors import UserError

RESAMPLES = 10_000
LEVEL = 0.95
BATCH, DRAWS = 500, 1 << 20  # at once: resamples at most, and problems drawn for them


class Interval(NamedTuple):
    value: float
    low: float
    high: float


class Graded(NamedTuple):
    """Correct answers by problem, problems in order of their ids."""

    problems: list[str]
    share_B: np.ndarray  # (B,) share of a problem's samples that are correct


def graded(problems: Sequence[str], correct: Sequence[bool]) -> Graded:
    """Group a column of grades by problem."""
    ids, group = np.unique(np.asarray(problems, dtype=str), return_inverse=True)
    counts = np.bincount(group)
    return Graded(ids.tolist(), np.bincount(group, np.asarray(correct, np.float64)) / counts)


def mean(values_B: np.ndarray, lowest: float = 0.0) -> Interval:
    """Mean with a 95 % percentile bootstrap interval over problems; of one, from lowest to 1.

    Percentile, because BCa divides by the spread of the jackknife: equal values give NaN there
    and [v, v] here. Equal problems and counts give equal resamples, so paired intervals agree.
    """
    if not len(values_B):
        raise UserError("statistics: no problem was evaluated. Raise evaluate.problems.")
    value = float(values_B.mean())
    if len(values_B) == 1:  # it says nothing of others
        return Interval(value, lowest, 1.0)
    from scipy.stats import bootstrap

    found = bootstrap(
        (values_B,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, min(BATCH, DRAWS // len(values_B))),
        confidence_level=LEVEL,
        method="percentile",
        rng=seeds.generator("bootstrap", len(values_B)),
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))


def difference(one: Graded, other: Graded) -> Interval:
    """Paired difference of accuracies. Raises UserError unless both are on the same problems."""
    if one.problems != other.problems:
        unshared = set(one.problems) ^ set(other.problems)
        raise UserError(
            f"statistics: {len(unshared)} problems are in one evaluation only, as "
            f"{sorted(unshared)[:2]}. Evaluate both arms on the same problems."
        )
    return mean(one.share_B - other.share_B, lowest=-1.0)


def t_test(values_B: np.ndarray) -> tuple[float, float]:
    """Degrees of freedom and two-sided p of a mean 0, over the problems of one run. Never NaN."""
    df = len(values_B) - 1
    if df < 1:
        return 0.0, 1.0
    from scipy.stats import t

    error = float(values_B.std(ddof=1)) / len(values_B) ** 0.5
    value = abs(float(values_B.mean()))
    if error < 1e-12:  # nothing varies: as if one problem had been 0
        error = value / len(values_B)
    return float(df), float(2 * t.sf(value / error, df)) if error > 0 else 1.0


def pass_at_k(problems: Sequence[str], correct: Sequence[bool], k: int) -> float:
    """Unbiased pass@k: mean over problems of 1 - C(n - c, k) / C(n, k).

    Source: Chen et al. 2021 (arXiv 2107.03374).
    """
    _, group = np.unique(np.asarray(problems, dtype=str), return_inverse=True)
    n_B = np.bincount(group)
    c_B = np.bincount(group, np.asarray(correct, np.float64)).astype(int)
    return float(np.mean([1 - comb(n - c, k) / comb(n, k) for n, c in zip(n_B, c_B, strict=True)]))
