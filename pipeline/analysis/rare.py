"""Intervals where few problems tell: nothing solved, everything, or two arms that hardly differ.

A variance estimated there is 0 or far too small: an interval of it covers .24 to .96. Shares get
the exact limits of Clopper and Pearson at an effective number of answers (Korn and Graubard 1998,
Survey Methodology 24; `svyciprop(method="beta")` of R's survey): p (1 - p) over the variance, times
(z / t)^2 for its degrees of freedom. A difference is the share by which one arm is above minus the
share by which it is below; the limits of the two are put together by MOVER, which adds the squared
distances as for independent estimates (Newcombe 1998, Statistics in Medicine 17; Zou and Donner
2008, Statistics in Medicine 27).

Deviation from Korn and Graubard: where nothing varies, be it zeros, ones or halves, the effective
number is that of problems and not of answers, as nothing is known of how answers cluster.
"""

from typing import Any, NamedTuple

import numpy as np

FEW = 20  # fewer problems than this tell: an interval is never narrower than these limits
ZERO = 1e-20  # a mean square of rounding errors
LEAST = 1e-6  # level at which bisection begins: below it quantiles of t are 0
STEPS = 40  # of bisection for a p-value: to 1e-12


class Share(NamedTuple):
    """Estimates of shares in [0, 1]: numbers, or arrays of many tables at once."""

    value: Any
    variance: Any  # of the estimate
    df: Any  # degrees of freedom of the variance
    problems: Any
    most: Any  # limit of the effective number: seeds x problems


def few(values_SP: np.ndarray) -> Any:
    """Whether all but a few problems have one value, 0, 1 or -1; of tables (..., S, P)."""
    alike = [(values_SP != value).any(-2).sum(-1) for value in (0, 1, -1)]
    return np.min(alike, axis=0) < FEW


def limits(share: Share, level: Any) -> tuple[Any, Any]:
    """Exact limits of a share at the effective number of answers. Never NaN."""
    from scipy.special import betaincinv, ndtri, stdtrit

    value, variance = np.clip(share.value, 0.0, 1.0), np.asarray(share.variance, float)
    constant = variance <= ZERO
    number = np.minimum(value * (1 - value) / np.where(constant, 1.0, variance), share.most)
    shrunk = (ndtri((1 + level) / 2) / stdtrit(share.df, (1 + level) / 2)) ** 2
    number = np.maximum(np.where(constant, share.problems, number * shrunk), 1e-9)
    right, wrong, tail = value * number, (1 - value) * number, (1 - level) / 2
    tiny = 1e-12
    low = np.where(right > tiny, betaincinv(np.maximum(right, tiny), wrong + 1, tail), 0.0)
    high = np.where(wrong > tiny, betaincinv(right + 1, np.maximum(wrong, tiny), 1 - tail), 1.0)
    return low, high


def difference(above: Share, below: Share, level: Any) -> tuple[Any, Any]:
    """Limits of `above` minus `below`, each with exact limits, by MOVER."""
    (a, b), (c, d) = limits(above, level), limits(below, level)
    value = above.value - below.value
    low = value - np.hypot(above.value - a, d - below.value)
    return low, value + np.hypot(b - above.value, below.value - c)


def p_value(above: Share, below: Share) -> Any:
    """Two-sided: 1 minus the highest level at which the limits of the difference leave 0 out."""
    value = np.asarray(above.value - below.value, float)
    leaves, holds = np.full_like(value, LEAST), np.ones_like(value)
    for _ in range(STEPS):
        level = (leaves + holds) / 2
        low, high = difference(above, below, level)
        out = (low > 0) | (high < 0)
        leaves, holds = np.where(out, level, leaves), np.where(out, holds, level)
    return np.where(leaves == LEAST, 1.0, 1 - leaves)
