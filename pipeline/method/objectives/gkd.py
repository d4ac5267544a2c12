"""gkd: generalised Jensen-Shannon divergence to a white-box teacher on every response token.

    m = beta * pi_teacher + (1 - beta) * pi_theta
    beta * KL(pi_teacher || m) + (1 - beta) * KL(pi_theta || m), full vocabulary
    beta 0: KL(pi_teacher || pi_theta), forward; beta 1: KL(pi_theta || pi_teacher), reverse

Source: Agarwal et al. 2024 (arXiv 2306.13649), on the student's own rollouts (lambda 1); ends as in
TRL, where the divergence itself would be 0.
"""

import math
from typing import TYPE_CHECKING

from pipeline.config.params import Params, Share
from pipeline.method.objectives import Evidence, Example, Objective, Parts, Slice, Terms
from pipeline.method.objectives.weighted import differs, reverse_kl, teacher, whole_response

if TYPE_CHECKING:
    import pyarrow as pa
    import torch


class Settings(Params):
    jsd_beta: Share = 0.5  # weight of the teacher in the mixture; 0 forward KL, 1 reverse


OBJECTIVE = Objective(("rollouts",), Settings, teacher=True, group="train-opd")


def parts(evidence: Evidence, own: Settings) -> Parts:
    return ((examples(rollouts), 0) for (rollouts,) in evidence.beside())


def examples(rollouts: "pa.Table") -> list[Example]:
    """One example per rollout; every response token counts fully."""
    return [whole_response(row, 1.0) for row in rollouts.to_pylist()]


def terms(piece: Slice, own: Settings) -> Terms:
    """Exact at each state that the rollouts visit: no token is corrected."""
    divergence_T = _divergence(piece, own.jsd_beta) * differs(piece)
    return Terms(divergence_T * piece.signal_T * piece.weight_T, divergence_T * 0)


def _divergence(piece: Slice, beta: float) -> "torch.Tensor":
    import torch

    theirs_TV, ours_TV = teacher(piece), piece.student_TV
    if beta == 0:
        return (theirs_TV.exp() * (theirs_TV - ours_TV)).sum(-1)
    if beta == 1:
        return reverse_kl(piece)
    mixed_TV = torch.logaddexp(theirs_TV + math.log(beta), ours_TV + math.log(1 - beta))
    from_teacher_T = (theirs_TV.exp() * (theirs_TV - mixed_TV)).sum(-1)
    from_student_T = (ours_TV.exp() * (ours_TV - mixed_TV)).sum(-1)
    return beta * from_teacher_T + (1 - beta) * from_student_T
