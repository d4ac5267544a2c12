"""opd: reverse KL to a white-box teacher on every response token, full vocabulary.

    sum over response tokens of KL(pi_theta || pi_teacher), no gradient through sampling

Source: on-policy distillation as in Agarwal et al. 2024 (arXiv 2306.13649), reverse KL.
"""

from typing import TYPE_CHECKING

from pipeline.config.params import Params
from pipeline.method.objectives import Evidence, Example, Objective, Parts, Slice, Terms
from pipeline.method.objectives.weighted import reverse_kl, whole_response

if TYPE_CHECKING:
    import pyarrow as pa

OBJECTIVE = Objective(("rollouts",), teacher=True, group="train-opd")


def parts(evidence: Evidence, own: Params) -> Parts:
    return ((examples(rollouts), 0) for (rollouts,) in evidence.beside())


def examples(rollouts: "pa.Table") -> list[Example]:
    """One example per rollout; every response token counts fully."""
    return [whole_response(row, 1.0) for row in rollouts.to_pylist()]


def terms(piece: Slice, own: Params) -> Terms:
    """Exact at each state that the rollouts visit: no token is corrected."""
    kl_T = reverse_kl(piece)
    return Terms(kl_T * piece.signal_T * piece.weight_T, kl_T * 0)
