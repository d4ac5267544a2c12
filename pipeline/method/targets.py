"""Targets of a round's forks: sums of their scores, and the posteriors that follow.

Axes: F forks, T teachers. Source: see stages/prior.py.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.config.method import Adaptive
from pipeline.core.errors import UserError
from pipeline.data import schemas
from pipeline.method.adaptive import least, most
from pipeline.method.posterior import posterior


def k_sem(
    forks: pa.Table, scores: pa.Table, samples: int | Adaptive
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of each fork's n similarities and n, (F,) each. Raises UserError unless n is N, or within
    the bounds of an adaptive one."""
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
    low, high = least(samples), most(samples)
    if (wrong_F := (counts < low) | (counts > high)).any():
        wrong = int(np.argmax(wrong_F))
        wanted = f"{low}" if low == high else f"{low} to {high}"
        raise UserError(
            f"scores: fork {places[wrong]} has {counts[wrong]} scores, wanted {wanted}. "
            "Rerun score."
        )
    sample = scores["sample"].to_numpy()
    order = np.lexsort((sample, fork_of))
    counted = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    if (wrong_K := sample[order] != counted).any():
        wrong = int(fork_of[order][np.argmax(wrong_K)])
        raise UserError(
            f"scores: fork {places[wrong]} has the samples "
            f"{np.sort(sample[fork_of == wrong]).tolist()}, wanted 0 to {counts[wrong] - 1} once "
            "each. Rerun score."
        )
    return np.bincount(fork_of, weights=values, minlength=len(places)), counts


def combined(k_TF: np.ndarray, samples: int, how: str) -> np.ndarray:
    """k_sem of several teachers (T, F) as that of one (F,): their mean, or N times the share of
    them whose k_sem is above their own median over the round's forks."""
    if how == "mean":
        return np.asarray(k_TF.mean(0))
    return np.asarray(samples * (k_TF > np.median(k_TF, axis=1, keepdims=True)).mean(0))


class Beliefs(NamedTuple):
    """What a round's forks are believed to be worth, (F,) each."""

    n: np.ndarray
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
            "n": self.n[here].astype(np.int32),
            "k_sem": self.k[here],
            "pi_bar": self.bar[here],
            "pi_hat": self.hat[here],
            "posterior_sd": self.sd[here],
            "weight": weight_F[here],
        }
        return pa.table(columns, schema=schemas.TARGETS)


def by_scores(n: int | np.ndarray, k: np.ndarray, bar: np.ndarray, alpha: float) -> Beliefs:
    """Posterior Beta(k + alpha pi_bar, n - k + alpha (1 - pi_bar)): its mean and sd, (F,).

    Raises UserError if a mean leaves [0, 1].
    """
    hat, sd = posterior(k, bar, n, alpha)
    if hat.size and not (hat.min() >= 0 and hat.max() <= 1):
        raise UserError(
            f"prior: pi_hat from {hat.min()} to {hat.max()}, wanted 0 to 1. k_sem must be within "
            f"0 and n = {np.max(n)}. Rerun score."
        )
    return Beliefs(np.broadcast_to(n, k.shape), k, bar, hat, sd)


def constant(n: int, bar: np.ndarray, alpha: float, mean: float) -> Beliefs:
    """Every pi_hat `mean`, that of the controlled arm; k_sem is the value that implies it."""
    hat = np.full(len(bar), mean)
    sd = np.sqrt(hat * (1 - hat) / (n + alpha + 1))
    return Beliefs(np.full(len(bar), n), hat * (n + alpha) - alpha * bar, bar, hat, sd)


def by_teacher(bar: np.ndarray, teachers_F: np.ndarray) -> Beliefs:
    """The teacher's own confidence for pi_hat: no answers, so no k_sem and no sd."""
    zeros = np.zeros(len(bar))
    return Beliefs(zeros, zeros, bar, teachers_F, zeros)
