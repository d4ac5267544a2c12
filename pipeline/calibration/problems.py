"""Intervals over problems: whole problems are drawn again, with all their forks."""

from collections.abc import Sequence

import numpy as np

from pipeline.calibration import Interval
from pipeline.core import seeds

RESAMPLES = 2000
LEVEL = 0.95


class Problems:
    """Bootstrap over the problems of a sample. Equal problems give equal resamples."""

    def __init__(self, names: Sequence[str]) -> None:
        distinct = sorted(set(names))
        self.index = {name: i for i, name in enumerate(distinct)}
        count = len(distinct)
        draw = seeds.generator("calibration", count)
        shares = np.full(count, 1 / count) if count else np.empty(0)
        # how often a problem is drawn; the sample as it is comes first
        resamples = draw.multinomial(count, shares, RESAMPLES) if count else np.empty((0, 0))
        self.times_RP = np.concatenate([np.ones((1, count)), resamples])

    def of(self, names: Sequence[str]) -> np.ndarray:
        """Index of each problem."""
        return np.array([self.index[name] for name in names], np.int64)

    def _sums(self, problem_K: np.ndarray, values_K: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(problem_K, values_K, self.times_RP.shape[1]).astype(np.float64)

    def mean(self, values_K: np.ndarray, problem_K: np.ndarray) -> Interval:
        """Mean over all values, not over the problems' means."""
        return self.ratio(self._sums(problem_K, values_K), self._sums(problem_K))

    def ratio(self, above_P: np.ndarray, below_P: np.ndarray) -> Interval:
        """Ratio of two sums over problems."""
        return _interval(
            self.times_RP @ above_P, self.times_RP @ below_P, int(np.count_nonzero(below_P))
        )

    def auroc(
        self,
        higher_K: np.ndarray,
        higher_problem_K: np.ndarray,
        lower_L: np.ndarray,
        lower_problem_L: np.ndarray,
    ) -> Interval:
        """Chance that a value of `higher` exceeds one of `lower`, a tie counting half.

        Mann-Whitney's U over the number of pairs: wins are counted once for each pair of problems,
        so that a resample is a quadratic form.
        """
        count = self.times_RP.shape[1]
        wins_PP = np.zeros((count, count))
        for problem in np.unique(lower_problem_L):
            theirs = np.sort(lower_L[lower_problem_L == problem])
            beaten = np.searchsorted(theirs, higher_K) + np.searchsorted(theirs, higher_K, "right")
            wins_PP[:, problem] = self._sums(higher_problem_K, beaten / 2)
        pairs_R = (self.times_RP @ self._sums(higher_problem_K)) * (
            self.times_RP @ self._sums(lower_problem_L)
        )
        wins_R = ((self.times_RP @ wins_PP) * self.times_RP).sum(1)
        return _interval(wins_R, pairs_R, len({*higher_problem_K, *lower_problem_L}))

    def correlations(self, a_SF: np.ndarray, b_SF: np.ndarray, problem_F: np.ndarray) -> np.ndarray:
        """Pearson's r over forks of S pairs of columns in every resample, (R, S); NaN where one of
        them does not vary."""
        a, b = (x - x.mean(1, keepdims=True) for x in (a_SF, b_SF))
        count_R1 = (self.times_RP @ self._sums(problem_F))[:, None]

        def sums(x_SF: np.ndarray) -> np.ndarray:
            by_problem = np.stack([self._sums(problem_F, x_F) for x_F in x_SF], 1)
            return np.asarray(self.times_RP @ by_problem)

        a_RS, b_RS = sums(a), sums(b)
        with np.errstate(divide="ignore", invalid="ignore"):
            covariance = sums(a * b) - a_RS * b_RS / count_R1
            square = (sums(a * a) - a_RS**2 / count_R1) * (sums(b * b) - b_RS**2 / count_R1)
            return np.where(square > 1e-18, covariance / np.sqrt(square), np.nan)


def percentiles(values_R: np.ndarray, problems: int) -> Interval:
    """The first is the value, the rest are resamples; those without a value are left out."""
    if not len(values_R) or not np.isfinite(values_R[0]):
        return Interval(None)
    value = float(values_R[0])
    known = values_R[1:][np.isfinite(values_R[1:])]
    if problems < 2 or not len(known):  # one problem says nothing of others
        return Interval(value)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, min(float(low), value), max(float(high), value))


def _interval(above_R: np.ndarray, below_R: np.ndarray, problems: int) -> Interval:
    with np.errstate(divide="ignore", invalid="ignore"):
        return percentiles(np.where(below_R > 0, above_R / below_R, np.nan), problems)
