"""one-sided: a fixed penalty on the student's own improbable tokens. Nobody is asked.

    sum over response tokens with pi_rollout(y) < rare_below of rare_weight * log pi_theta(y)
    + beta * sum over the other response tokens of KL(pi_ref || pi_theta)

The control for whoever says that a teacher's disagreement taught something: where the student was
unlikely to write a token, a teacher tends to disagree, and pushing all of these down sharpens the
student without one.

source  arXiv 2608.31046, known by a description alone: neither abstract nor text could be read.
        So the threshold, the weight and the anchor are ours; a token counts by its probability
        under the policy that wrote it, so that a round's choice of tokens is fixed.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config.method import Anchored, Corrected
from pipeline.config.params import Positive, Share
from pipeline.method import drift
from pipeline.method.objectives import (
    Evidence,
    Example,
    Objective,
    Parts,
    Sequence,
    Slice,
    Terms,
)
from pipeline.method.objectives.weighted import anchor, nll

if TYPE_CHECKING:
    import pyarrow as pa


class Settings(Anchored, Corrected):
    rare_below: Share = 0.1  # probability of a token under the student that wrote it
    rare_weight: Positive = 1.0  # how much such a token is pushed down


OBJECTIVE = Objective(("rollouts",), Settings, checked=True)


def check(where: str, arm: Any) -> None:
    why = "Weights below 0 push a token ever lower"
    drift.check(where, arm, f"objective {arm.train.objective}", why)


def parts(evidence: Evidence, own: Settings) -> Parts:
    return ((examples(rollouts, own), 0) for (rollouts,) in evidence.beside())


def examples(rollouts: "pa.Table", own: Settings) -> list[Example]:
    """One example per rollout: its improbable tokens are signal, the rest is anchor."""
    return [_example(row, own) for row in rollouts.to_pylist()]


def _example(row: dict[str, Any], own: Settings) -> Example:
    old_logp_T = np.asarray(row["logprobs"], np.float32)
    rare_T = np.exp(old_logp_T.astype(np.float64)) < own.rare_below
    weight_T = np.where(rare_T, -own.rare_weight, 0.0).astype(np.float32)
    ids = (row["prompt_token_ids"], row["token_ids"])
    return Example([Sequence(*ids, rare_T, weight_T, ~rare_T, old_logp_T)])


def terms(piece: Slice, own: Settings) -> Terms:
    return Terms(nll(piece, own.corrects), anchor(piece))
