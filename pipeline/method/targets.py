"""Targets of a round's forks: sums of their scores, and the posteriors that follow.

Axes: F forks, T teachers. Source: see stages/prior.py.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.data import schemas
from pipeline.method.posterior import posterior


def k_sem(forks: pa.Table, scores: pa.Table, samples: int) -> np.ndarray:
    """Sum of each fork's N similarities, (F,). Raises UserError unless there are exactly N."""
    places = list(zip(forks["rollout_id"].to_pylist(), forks["position"].to_pylist(), strict=True))
    index = {place: i for i, place in enumerate(places)}
    scored = zip(scores["rollout_id"].to_pylist(), scores["position"].to_pylist(), strict=True)
    try:
        fork_of = np.array([index[place] for place in scored], np.int64)
    except KeyError as error:
        raise UserError(
            f"scores: {error} is no fork, wanted those of these forks. Rerun score."
        ) from error
    values = scores["similarity"].to_numpy()
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise UserError(
            f"scores: similarities from {values.min()} to {values.max()}, wanted 0 to 1. "
            "Rerun score."
        )
    counts = np.bincount(fork_of, minlength=len(places))
    if (counts != samples).any():
        wrong = int(np.argmax(counts != samples))
        raise UserError(
            f"scores: fork {places[wrong]} has {counts[wrong]} scores, wanted {samples}. "
            "Rerun score."
        )
    sample = scores["sample"].to_numpy()
    sample_FN = sample[np.lexsort((sample, fork_of))].reshape(len(places), samples)
    if (wrong_F := (sample_FN != np.arange(samples)).any(1)).any():
        wrong = int(np.argmax(wrong_F))
        raise UserError(
            f"scores: fork {places[wrong]} has the samples {sample_FN[wrong].tolist()}, wanted 0 "
            f"to {samples - 1} once each. Rerun score."
        )
    return np.bincount(fork_of, weights=values, minlength=len(places))


def combined(k_TF: np.ndarray, samples: int, how: str) -> np.ndarray:
    """k_sem of several teachers (T, F) as that of one (F,): their mean, or N times the share of
    them whose k_sem is above their own median over the round's forks."""
    if how == "mean":
        return np.asarray(k_TF.mean(0))
    return np.asarray(samples * (k_TF > np.median(k_TF, axis=1, keepdims=True)).mean(0))


class Beliefs(NamedTuple):
    """What a round's forks are believed to be worth, (F,) each; n is one number."""

    n: int
    k: np.ndarray
    bar: np.ndarray
    hat: np.ndarray
    sd: np.ndarray

    def table(self, forks: pa.Table, first: int, weight_F: np.ndarray) -> pa.Table:
        """The rows of some forks, `first` the number of those before them."""
        here = slice(first, first + len(forks))
        columns = {
            "rollout_id": forks["rollout_id"],
            "position": forks["position"],
            "length": forks["length"],
            "n": np.full(len(forks), self.n, np.int32),
            "k_sem": self.k[here],
            "pi_bar": self.bar[here],
            "pi_hat": self.hat[here],
            "posterior_sd": self.sd[here],
            "weight": weight_F[here],
        }
        return pa.table(columns, schema=schemas.TARGETS)


def by_scores(n: int, k: np.ndarray, bar: np.ndarray, alpha: float) -> Beliefs:
    """Posterior Beta(k + alpha pi_bar, n - k + alpha (1 - pi_bar)): its mean and sd, (F,).

    Raises UserError if a mean leaves [0, 1].
    """
    hat, sd = posterior(k, bar, n, alpha)
    if hat.size and not (hat.min() >= 0 and hat.max() <= 1):
        raise UserError(
            f"prior: pi_hat from {hat.min()} to {hat.max()}, wanted 0 to 1. k_sem must be within "
            f"0 and n = {n}. Rerun score."
        )
    return Beliefs(n, k, bar, hat, sd)


def constant(n: int, bar: np.ndarray, alpha: float, mean: float) -> Beliefs:
    """Every pi_hat `mean`, that of the controlled arm; k_sem is the value that implies it."""
    hat = np.full(len(bar), mean)
    sd = np.sqrt(hat * (1 - hat) / (n + alpha + 1))
    return Beliefs(n, hat * (n + alpha) - alpha * bar, bar, hat, sd)


def by_teacher(bar: np.ndarray, teachers_F: np.ndarray) -> Beliefs:
    """The teacher's own confidence for pi_hat: no answers, so no k_sem and no sd."""
    zeros = np.zeros(len(bar))
    return Beliefs(0, zeros, bar, teachers_F, zeros)
