"""omniopd: chunk log-likelihood weighted by the posterior, KL anchor on everything else.

    sum over chunks of -weight * sum_{i in chunk} log pi_theta(y_i)
    + beta * sum_{i outside all chunks} KL(pi_ref || pi_theta)_i

Source: arXiv 2606.01476, algorithm lines 20 to 23 (both terms, the sign, the KL's direction).
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.config.method import Anchored, Corrected
from pipeline.method import drift
from pipeline.method.objectives import Evidence, Example, Objective, Parts, Slice, Terms
from pipeline.method.objectives.weighted import anchor, chunked, constant, nll

if TYPE_CHECKING:
    import pyarrow as pa


class Settings(Anchored, Corrected):
    # an extension: taken off the weight, its mean over the round's chunks or over the prompt's; or
    # how much the teacher agrees with itself at the fork
    baseline: Literal["none", "batch", "prompt", "teacher-agreement"] = "none"


def _also(own: Settings) -> tuple[str, ...]:
    return ("answers", "similarity") if own.baseline == "teacher-agreement" else ()


OBJECTIVE = Objective(("rollouts", "targets"), Settings, also=_also, checked=True)


def check(where: str, arm: Any) -> None:
    if (baseline := arm.train.baseline) != "none":
        why = "Weights below 0 push a token ever lower"
        drift.check(where, arm, f"baseline {baseline}", why)


def parts(evidence: Evidence, own: Settings) -> Parts:
    """Examples; what is taken off their weights is of the whole round."""
    if own.baseline == "none":
        yield from ((examples(*block), 0) for block in evidence.beside("targets"))
        return
    targets = evidence.columns("targets", ["rollout_id", "position", "weight"])
    rollouts = evidence.columns("rollouts", ["rollout_id", "prompt_id"])
    agreed = evidence.agreement(targets) if own.baseline == "teacher-agreement" else None
    weight_F = weights(rollouts, targets, own.baseline, agreed)
    yield from ((weighted(*block), 0) for block in evidence.valued(weight_F, "targets"))


def examples(
    rollouts: "pa.Table",
    targets: "pa.Table",
    baseline: str = "none",
    agreement_F: np.ndarray | None = None,
) -> list[Example]:
    """One example per rollout, in the rollouts' order. Raises UserError if they do not match.

    `baseline`, an extension: batch takes the mean weight of the round's chunks off each, prompt
    that of the chunks of the same prompt, teacher-agreement `agreement_F` of the targets' forks.
    """
    return weighted(rollouts, targets, weights(rollouts, targets, baseline, agreement_F))


def weights(
    rollouts: "pa.Table", targets: "pa.Table", baseline: str, agreement_F: np.ndarray | None
) -> np.ndarray:
    """Weights (F,) of a round's chunks. Of the tables, ids and weights are read."""
    if baseline == "teacher-agreement":
        return np.asarray(targets["weight"].to_numpy() - agreement_F)
    return centred(rollouts, targets["rollout_id"].to_pylist(), targets["weight"], baseline)


def weighted(rollouts: "pa.Table", targets: "pa.Table", weight_F: np.ndarray) -> list[Example]:
    """One example for each of some rollouts, with the weights of their chunks."""
    rows = targets.select(["rollout_id", "position", "length"]).to_pylist()
    places = [
        (row["rollout_id"], row["position"], row["length"], weight)
        for row, weight in zip(rows, weight_F.tolist(), strict=True)
    ]
    return chunked(rollouts, places, "targets")


def centred(
    rollouts: "pa.Table", fork_of: list[str], weight: "pa.ChunkedArray", baseline: str
) -> np.ndarray:
    """Weights (F,) of the chunks of responses `fork_of`, less the baseline."""
    weight_F: np.ndarray = weight.to_numpy().astype(np.float64)
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


def terms(piece: Slice, own: Settings) -> Terms:
    return Terms(nll(piece, own.corrects), anchor(piece))
