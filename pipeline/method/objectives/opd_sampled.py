"""opd-sampled: the k1 estimate of opd's reverse KL, on the tokens that the student sampled.

    value     sum over response tokens of log pi_theta(y) - log pi_teacher(y), nats
    gradient  (log pi_theta(y) - log pi_teacher(y)) * grad log pi_theta(y), the factor a constant

Unbiased for opd's gradient where pi_theta wrote the tokens; with `importance_ratio: ratio` a
token's gradient is multiplied by min(pi_theta / pi_rollout, 2).

Source: on-policy distillation with a per-token log-ratio as advantage (Thinking Machines, 2025).
"""

from typing import TYPE_CHECKING, Any

from pipeline.config.method import Corrected
from pipeline.method import drift
from pipeline.method.objectives import (
    RATIO_CAP,
    Evidence,
    Example,
    Objective,
    Parts,
    Slice,
    Terms,
)
from pipeline.method.objectives.weighted import teacher, whole_response

if TYPE_CHECKING:
    import pyarrow as pa


OBJECTIVE = Objective(
    ("rollouts",), Corrected, teacher=True, sampled=True, group="train-opd", checked=True
)


def check(where: str, arm: Any) -> None:
    why = "Tokens that the student likes better than the teacher are pushed ever lower"
    drift.check(where, arm, "objective opd-sampled", why)


def parts(evidence: Evidence, own: Corrected) -> Parts:
    return ((examples(rollouts), 0) for (rollouts,) in evidence.beside())


def examples(rollouts: "pa.Table") -> list[Example]:
    """One example per rollout; every response token counts fully."""
    return [whole_response(row, 1.0) for row in rollouts.to_pylist()]


def terms(piece: Slice, own: Corrected) -> Terms:
    logp_T = piece.logp_T()
    theirs_T = teacher(piece).gather(1, piece.tokens_T[:, None])[:, 0]
    gap_T = logp_T.detach() - theirs_T
    factor_T = gap_T
    if own.corrects:
        ratio_T = (logp_T.detach() - piece.old_logp_T).exp().clamp(max=RATIO_CAP)
        factor_T = gap_T * ratio_T
    # the value is k1 itself, the gradient that of factor * log pi
    value_T = gap_T + factor_T * (logp_T - logp_T.detach())
    return Terms(value_T * piece.signal_T * piece.weight_T, value_T * 0)
