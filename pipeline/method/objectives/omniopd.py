"""omniopd: chunk log-likelihood weighted by the posterior, KL anchor on everything else.

    sum over chunks of -pi_hat * sum_{i in chunk} log pi_theta(y_i)
    + beta * sum_{i outside all chunks} KL(pi_ref || pi_theta)_i

Source: arXiv 2606.01476, algorithm lines 20 to 23 (both terms, the sign, the KL's direction).
"""

import numpy as np
import pyarrow as pa

from pipeline.method.objectives import Example, Slice, Terms
from pipeline.method.objectives.weighted import anchor, chunked, constant, nll


def examples(
    rollouts: pa.Table,
    targets: pa.Table,
    baseline: str = "none",
    agreement_F: np.ndarray | None = None,
) -> list[Example]:
    """One example per rollout, in the rollouts' order. Raises UserError if they do not match.

    `baseline`, an extension: batch takes the mean weight of the round's chunks off each, prompt
    that of the chunks of the same prompt, teacher-agreement `agreement_F` of the targets' forks.
    """
    return weighted(rollouts, targets, weights(rollouts, targets, baseline, agreement_F))


def weights(
    rollouts: pa.Table, targets: pa.Table, baseline: str, agreement_F: np.ndarray | None
) -> np.ndarray:
    """Weights (F,) of a round's chunks. Of the tables, ids and pi_hat are read."""
    if baseline == "teacher-agreement":
        return np.asarray(targets["pi_hat"].to_numpy() - agreement_F)
    return centred(rollouts, targets["rollout_id"].to_pylist(), targets["pi_hat"], baseline)


def weighted(rollouts: pa.Table, targets: pa.Table, weight_F: np.ndarray) -> list[Example]:
    """One example for each of some rollouts, with the weights of their chunks."""
    rows = targets.select(["rollout_id", "position", "length"]).to_pylist()
    places = [
        (row["rollout_id"], row["position"], row["length"], weight)
        for row, weight in zip(rows, weight_F.tolist(), strict=True)
    ]
    return chunked(rollouts, places, "targets")


def centred(
    rollouts: pa.Table, fork_of: list[str], pi_hat: pa.ChunkedArray, baseline: str
) -> np.ndarray:
    """Weights (F,) of the chunks of responses `fork_of`: pi_hat less the baseline."""
    weight_F: np.ndarray = pi_hat.to_numpy().astype(np.float64)
    if baseline == "none" or not len(weight_F):
        return weight_F
    if baseline == "batch":
        same_F = constant(weight_F, np.zeros(len(weight_F), np.int64))
        return np.where(same_F, 0.0, weight_F - weight_F.mean())
    prompt_of = dict(
        zip(rollouts["rollout_id"].to_pylist(), rollouts["prompt_id"].to_pylist(), strict=True)
    )
    _, group_F = np.unique([prompt_of[name] for name in fork_of], return_inverse=True)
    mean: np.ndarray = np.bincount(group_F, weight_F) / np.bincount(group_F)
    return np.where(constant(weight_F, group_F), 0.0, weight_F - mean[group_F])


def terms(piece: Slice, correct: bool) -> Terms:
    return Terms(nll(piece, correct), anchor(piece))
