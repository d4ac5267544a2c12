"""Accuracies and paired differences over seeds x problems crossed, with intervals and p-values.

Source: the two-way layout without replication, seeds and problems random. A mean over S seeds and
P problems has the variance (MSs + MSp - MSe) / (S P); the estimate may fall below what seeds or
problems alone show, so the largest of MSs + MSp - MSe, MSs and MSp is taken. An accuracy has the
exact limits of `pipeline/analysis/rare.py` at this variance. A difference has a t interval, and one
no narrower than those limits where few problems tell the arms apart. Several sets are weighed
alike: their variances over problems add, seeds are common to all.

Deviation from plain Satterthwaite degrees of freedom: MSs rests on S - 1 of them and is often far
too small by chance; plain Satterthwaite then counts hundreds and covers 92 % at S = 3. Here the
seeds' excess MSs - MSe enters the degrees of freedom (not the variance) at its upper quartile
limit. With two seeds no such correction is enough, and the degrees of freedom are 1.

Coverage is simulated by `python -m tests.coverage` (3, 5, 10 seeds; 30, 600 problems; 1, 4
samples; 4,000 tables a case; accuracies and differences): .936 to .980 in the middle, .941 to 1
at a mean of .01 and .99, 1 where nothing is solved. That is for seeds whose effects are about
normal on the logit scale. It does NOT hold for an arm whose seeds collapse now and then: where one
in five loses nearly everything, .776 to .969 of accuracies and .860 to .951 of differences to an
arm that does not are covered, least at five seeds and 600 problems. Seeds that all went well say
nothing of the one that does not, and no interval can.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pipeline.analysis import rare
from pipeline.analysis.bootstrap import LEVEL, Graded, Interval, alike, macro, split
from pipeline.analysis.rare import ZERO
from pipeline.core.errors import UserError

CAUTION = 0.75  # upper limit at which the seeds' excess enters the degrees of freedom


class Squares(NamedTuple):
    """Mean squares; arrays where many tables are worked on at once."""

    seeds: Any
    problems: Any
    error: Any


class Crossed(NamedTuple):
    """A mean over seeds and problems with its 95 % interval; p is two-sided, of the mean 0."""

    value: float
    low: float
    high: float
    df: float
    p: float
    seeds: int
    problems: int
    squares: Squares  # at `effective` problems
    effective: float = 0.0  # problems; fewer where a small set weighs as much as a large one
    few: bool = False  # few problems tell: the limits are exact ones

    @property
    def interval(self) -> Interval:
        return Interval(self.value, self.low, self.high)


def difference(one: Mapping[int, Graded], other: Mapping[int, Graded]) -> Crossed:
    """The difference of two arms, paired by seed and problem. Raises UserError if one lacks any.

    [0, 0] only where all rows have the same grades, and there are right and wrong ones among them.
    """
    if one.keys() != other.keys():
        raise UserError(
            f"statistics: one arm has seeds {sorted(one)}, the other {sorted(other)}. "
            "Evaluate both under the same seeds."
        )
    together = shares({(0, s): g for s, g in one.items()} | {(1, s): g for s, g in other.items()})
    if all(alike(one[seed], other[seed]) for seed in one) and 0 < together.mean() < 1:
        own = accuracy(one)
        squares = Squares(0.0, 0.0, 0.0)
        return own._replace(value=0.0, low=0.0, high=0.0, p=1.0, squares=squares, few=False)
    values_SP = together[: len(one)] - together[len(one) :]
    return crossed(values_SP, lowest=-1.0, sets_P=next(iter(one.values())).sets_B)


def accuracy(arm: Mapping[int, Graded]) -> Crossed:
    """The accuracy of one arm. Raises UserError unless every seed has every problem."""
    return crossed(shares(arm), lowest=0.0, sets_P=next(iter(arm.values())).sets_B)


def shares(graded: Mapping[Any, Graded]) -> np.ndarray:
    """Share of correct samples by row, rows in order of their keys, and problem."""
    rows = [graded[key] for key in sorted(graded)]
    if not rows or not rows[0].problems:
        raise UserError("statistics: no problem was evaluated. Raise evaluate.problems.")
    for key in sorted(graded):
        unshared = set(graded[key].problems) ^ set(rows[0].problems)
        if unshared:
            seed = key[-1] if isinstance(key, tuple) else key
            raise UserError(
                f"statistics: seed {seed} has {len(graded[key].problems)} problems, wanted the "
                f"{len(rows[0].problems)} of the first seed; {len(unshared)} are in one only, as "
                f"{sorted(unshared)[:2]}. Evaluate every seed on the same problems."
            )
    return np.stack([row.share_B for row in rows])


def crossed(values_SP: np.ndarray, lowest: float, sets_P: np.ndarray | None = None) -> Crossed:
    """The mean of a table of seeds x problems; a value lies between `lowest` and 1.

    `lowest` is 0 for accuracies and -1 for differences; `sets_P` numbers the sets, if several. One
    problem says nothing of others, and one seed nothing of other seeds: the interval is then
    everything, and p is 1. With one seed use `statistics.mean`, which is conditional on that run.
    """
    S, P = values_SP.shape
    value = float(macro(values_SP, sets_P).mean())
    if min(S, *(part.shape[-1] for part in split(values_SP, sets_P))) < 2:
        nothing = Squares(0.0, 0.0, 0.0)
        return Crossed(value, lowest, 1.0, 0.0, 1.0, S, P, nothing, P, True)
    squares, effective = layout(values_SP, sets_P)
    low, high, df, p, few = (v.item() for v in limits(values_SP, lowest, sets_P))
    both = Squares(*map(float, squares))
    return Crossed(value, low, high, df, p, S, P, both, float(effective), few)


def limits(values_SP: np.ndarray, lowest: float, sets_P: np.ndarray | None = None) -> Any:
    """(low, high, degrees of freedom, p, whether few problems tell) of tables (..., S, P)."""
    value, S = macro(values_SP, sets_P).mean(-1), values_SP.shape[-2]
    squares, P = layout(values_SP, sets_P)
    low, high, df, p = interval(value, squares, S, P)
    constant = largest(squares) <= ZERO
    few = np.any([rare.few(part) for part in split(values_SP, sets_P)], axis=0) | constant
    if lowest == 0:
        low, high = rare.limits(_share(values_SP, sets_P), LEVEL)
    elif np.any(few):
        above, below = (_share(np.maximum(sign * values_SP, 0), sets_P) for sign in (1, -1))
        exact_low, exact_high = rare.difference(above, below, LEVEL)
        low = np.where(few, np.minimum(low, exact_low), low)
        high = np.where(few, np.maximum(high, exact_high), high)
        p = np.where(few & ~constant, np.maximum(p, rare.p_value(above, below)), p)
    return np.clip(low, lowest, 1.0), np.clip(high, lowest, 1.0), df, p, few


def _share(values_SP: np.ndarray, sets_P: np.ndarray | None) -> rare.Share:
    """Mean of tables (..., S, P) of values in [0, 1], with its variance."""
    (squares, P), S = layout(values_SP, sets_P), values_SP.shape[-2]
    total = largest(squares)
    df = np.where(total <= ZERO, P - 1.0, degrees(squares, S, P))
    value = macro(values_SP, sets_P).mean(-1)
    most = S * values_SP.shape[-1]
    return rare.Share(value, np.where(total <= ZERO, 0.0, total / (S * P)), df, P, most)


def layout(values_SP: np.ndarray, sets_P: np.ndarray | None) -> tuple[Squares, Any]:
    """Mean squares of the macro mean of tables (..., S, P), and the problems they are for.

    With T sets the variances over problems of their means add, over T squared, and have the degrees
    of freedom of Satterthwaite, one less than that number; seeds vary by their macro means.
    """
    if sets_P is None:
        return mean_squares(values_SP), values_SP.shape[-1]
    parts = split(values_SP, sets_P)
    each = [(mean_squares(part), part.shape[-1]) for part in parts]
    problems = np.array([squares.problems / P for squares, P in each]) / len(parts) ** 2
    error = sum(squares.error / P for squares, P in each) / len(parts) ** 2
    dfs = np.array([P - 1.0 for _, P in each]).reshape(-1, *[1] * (problems.ndim - 1))
    spread, total = (problems**2 / dfs).sum(0), problems.sum(0)
    df = np.where(spread > ZERO**2, total**2 / np.where(spread > ZERO**2, spread, 1.0), dfs.sum(0))
    number = df + 1
    seeds = macro(values_SP, sets_P).var(-1, ddof=1)
    return Squares(seeds * number, total * number, error * number), number


def mean_squares(values_SP: np.ndarray) -> Squares:
    """The mean squares of tables (..., S, P), S and P at least 2."""
    S, P = values_SP.shape[-2:]
    centred = values_SP - values_SP.mean((-2, -1), keepdims=True)
    seeds, problems = centred.mean(-1, keepdims=True), centred.mean(-2, keepdims=True)
    error = (centred - seeds - problems) ** 2
    return Squares(
        P * (seeds**2).sum((-2, -1)) / (S - 1),
        S * (problems**2).sum((-2, -1)) / (P - 1),
        error.sum((-2, -1)) / ((S - 1) * (P - 1)),
    )


def largest(squares: Squares) -> Any:
    """S P times the variance of the mean."""
    a, b, c = squares
    return np.maximum(a + b - c, np.maximum(a, b))


def degrees(squares: Squares, S: int, P: Any) -> Any:
    """Degrees of freedom of `largest`, with the deviation above; continuous in the squares."""
    from scipy.special import chdtri

    a, b, c = map(np.asarray, squares)
    # where all seeds gave the very same table there is one run, and problems are all that varies
    one_run = (a <= ZERO) & (c <= ZERO)
    if S == 2:
        return np.where(one_run, P - 1.0, 1.0)
    factor = (S - 1) / chdtri(S - 1, CAUTION)
    a = np.where(a > c, c + factor * (a - c), a)
    numerator = largest(Squares(a, b, c))
    spread = a**2 / (S - 1) + b**2 / (P - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        df = np.where(spread > 0, numerator**2 / spread, 1.0)
    return np.maximum(df, np.minimum(S, P) - 1.0)


def interval(value: Any, squares: Squares, S: int, P: Any) -> tuple[Any, Any, Any, Any]:
    """(low, high, degrees of freedom, p) of means with these mean squares. Never NaN.

    Where nothing varies but the mean is not 0, it is as if one of the S P values had been 0; a
    mean of 0 without variation has the interval [0, 0] and p 1.
    """
    from scipy.special import stdtr, stdtrit

    value, numerator = np.asarray(value, float), largest(squares)
    constant = numerator <= ZERO
    numerator = np.where(constant, value**2 / (S * P), numerator)
    df = np.where(constant, np.minimum(S, P) - 1.0, degrees(squares, S, P))
    error = np.sqrt(numerator / (S * P))
    half = stdtrit(df, (1 + LEVEL) / 2) * error
    t = np.abs(value) / np.where(error > 0, error, 1.0)
    return value - half, value + half, df, 2 * stdtr(df, -t)


def expected(squares: Squares, S: int, P: float, seeds: int, problems: float) -> Squares:
    """Mean squares that `seeds` x `problems` would have with the spreads estimated at S x P."""
    a, b, c = squares
    return Squares(
        max(a - c, 0.0) / P * problems + c,
        max(b - c, 0.0) / S * seeds + c,
        c,
    )
