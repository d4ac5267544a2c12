"""Accuracies and their intervals: bootstrap over problems, conditional on one run.

Where few problems tell (`pipeline/analysis/rare.py`) an interval is never narrower than exact
limits: 0 of 64 is [0, .056] and not [0, 0]. Several sets are weighed alike, whatever their sizes.
"""

from collections.abc import Sequence
from math import comb
from typing import Any, NamedTuple

import numpy as np

from pipeline.analysis import rare
from pipeline.core import seeds
from pipeline.core.errors import UserError

RESAMPLES = 10_000
LEVEL = 0.95
NOTHING, EVERYTHING = "nothing was solved", "everything was solved"
BATCH, DRAWS = 500, 1 << 20  # at once: resamples at most, and problems drawn for them


class Interval(NamedTuple):
    value: float
    low: float
    high: float


class Graded(NamedTuple):
    """Correct answers by problem, problems in order of their sets and ids."""

    problems: list[str]
    share_B: np.ndarray  # (B,) share of a problem's samples that are correct
    rows_N: np.ndarray | None = None  # (N,) grades, ordered by problem; None: only shares are known
    sets_B: np.ndarray | None = None  # (B,) number of the set a problem is of; None: all of one


def graded(
    problems: Sequence[str], correct: Sequence[float], sets: Sequence[str] | None = None
) -> Graded:
    """Group a column of grades by problem; `sets` names each row's set where there are several."""
    names = np.asarray(problems, dtype=str)
    if sets is not None:
        names = np.char.add(np.char.add(np.asarray(sets, dtype=str), "/"), names)
    ids, first, group = np.unique(names, return_index=True, return_inverse=True)
    counts, grades = np.bincount(group), np.asarray(correct, np.float64)
    of = None if sets is None else np.unique(sets, return_inverse=True)[1][first]
    ordered = grades[np.argsort(group, kind="stable")]
    return Graded(ids.tolist(), np.bincount(group, grades) / counts, ordered, of)


def alike(one: Graded, other: Graded) -> bool:
    """Whether every row has the same grade."""
    first, second = one.rows_N, other.rows_N
    if first is None or second is None:
        first, second = one.share_B, other.share_B
    return np.array_equal(first, second)


def equal(one: Graded, other: Graded) -> bool:
    """The same, and there are right and wrong ones among them."""
    return alike(one, other) and 0 < float(one.share_B.mean()) < 1


def note(shares: np.ndarray) -> str | None:
    """Say why no comparison is possible: nothing was solved, or everything. Else None."""
    if not shares.any():
        return NOTHING
    return EVERYTHING if (shares == 1).all() else None


def log_odds(value: float, answers: int) -> float:
    """log (accuracy / (1 - accuracy)) with half an answer added to right and wrong: always finite.

    Source: Anscombe 1956, Biometrika 43; Haldane 1956, Annals of Human Genetics 20.
    """
    return float(np.log((value * answers + 0.5) / ((1 - value) * answers + 0.5)))


def macro(values: np.ndarray, sets_B: np.ndarray | None) -> Any:
    """Mean over sets of their means over problems, the last axis; of one set the plain mean."""
    return np.mean([part.mean(-1) for part in split(values, sets_B)], axis=0)


def split(values: np.ndarray, sets_B: np.ndarray | None) -> list[np.ndarray]:
    """Values by set; problems are the last axis."""
    if sets_B is None:
        return [values]
    return [values[..., sets_B == one] for one in np.unique(sets_B)]


def mean(values_B: np.ndarray, lowest: float = 0.0, sets_B: np.ndarray | None = None) -> Interval:
    """Mean with a 95 % percentile bootstrap interval over problems; of one, from lowest to 1.

    Percentile, because BCa divides by the spread of the jackknife and gives NaN for equal values.
    Equal problems and counts give equal resamples, so paired intervals agree. A value lies between
    `lowest` (0 of accuracies, -1 of differences) and 1. With several sets each is resampled by
    itself, and one with a single problem says nothing of others of its kind.
    """
    if not len(values_B):
        raise UserError("statistics: no problem was evaluated. Raise evaluate.problems.")
    value = float(macro(values_B, sets_B))
    parts = split(values_B, sets_B)
    if min(map(len, parts)) < 2:
        return Interval(value, lowest, 1.0)
    from scipy.stats import bootstrap

    found = bootstrap(
        parts,
        lambda *drawn, axis: np.mean([one.mean(axis) for one in drawn], axis=0),
        n_resamples=RESAMPLES,
        batch=max(1, min(BATCH, DRAWS // len(values_B))),
        confidence_level=LEVEL,
        method="percentile",
        rng=seeds.generator("bootstrap", *map(len, parts)),
        vectorized=True,
    ).confidence_interval
    low, high = float(found.low), float(found.high)
    if any(rare.few(part[None]) for part in parts) or _variance(parts)[0] <= rare.ZERO:
        above, below = _shares(parts)
        exact = rare.limits(above, LEVEL) if lowest == 0 else rare.difference(above, below, LEVEL)
        low, high = min(low, float(exact[0])), max(high, float(exact[1]))
    return Interval(value, max(low, lowest), min(high, 1.0))


def _shares(parts: list[np.ndarray]) -> tuple[rare.Share, rare.Share]:
    """The shares of values above zero and below it, on the problems of one run."""

    shares = []
    for sign in (1, -1):
        values = [np.maximum(sign * part, 0) for part in parts]
        variance, df = _variance(values)
        value, most = np.mean([v.mean() for v in values]), sum(map(len, values))
        shares.append(rare.Share(value, variance, df, df + 1, most))
    return shares[0], shares[1]


def _variance(parts: list[np.ndarray]) -> tuple[float, float]:
    """The variance of the mean of the parts' means, and its degrees of freedom (Satterthwaite)."""
    each = np.array([part.var(ddof=1) / len(part) for part in parts]) / len(parts) ** 2
    dfs, total = np.array([len(part) - 1.0 for part in parts]), float(each.sum())
    constant = total <= rare.ZERO
    return total, float(dfs.sum() if constant else total**2 / (each**2 / dfs).sum())


def difference(one: Graded, other: Graded) -> Interval:
    """Paired difference of accuracies, [0, 0] only where all rows are `equal`.

    Raises UserError unless both are on the same problems.
    """
    if one.problems != other.problems:
        unshared = set(one.problems) ^ set(other.problems)
        raise UserError(
            f"statistics: {len(unshared)} problems are in one evaluation only, as "
            f"{sorted(unshared)[:2]}. Evaluate both arms on the same problems."
        )
    if equal(one, other):
        return Interval(0.0, 0.0, 0.0)
    return mean(one.share_B - other.share_B, -1.0, one.sets_B)


def t_test(values_B: np.ndarray, sets_B: np.ndarray | None = None) -> tuple[float, float]:
    """Degrees of freedom and two-sided p of a mean 0, over the problems of one run. Never NaN.

    Where few problems tell, p is no smaller than that of the exact limits.
    """
    parts = split(values_B, sets_B)
    if min(map(len, parts)) < 2:
        return 0.0, 1.0
    from scipy.stats import t

    variance, df = _variance(parts)
    value, error = abs(float(macro(values_B, sets_B))), variance**0.5
    if error < 1e-12:  # nothing varies: as if one problem had been 0
        error = value / len(values_B)
    p = float(2 * t.sf(value / error, df)) if error > 0 else 1.0
    if any(rare.few(part[None]) for part in parts):
        p = max(p, float(rare.p_value(*_shares(parts))))
    return df, p


def pass_at_k(problems: Sequence[str], correct: Sequence[bool], k: int) -> float:
    """Unbiased pass@k: mean over problems of 1 - C(n - c, k) / C(n, k).

    Source: Chen et al. 2021 (arXiv 2107.03374).
    """
    _, group = np.unique(np.asarray(problems, dtype=str), return_inverse=True)
    n_B = np.bincount(group)
    c_B = np.bincount(group, np.asarray(correct, np.float64)).astype(int)
    return float(np.mean([1 - comb(n - c, k) / comb(n, k) for n, c in zip(n_B, c_B, strict=True)]))
