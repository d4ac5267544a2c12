"""opd: reverse KL to a white-box teacher on every response token, full vocabulary.

    sum over response tokens of KL(pi_theta || pi_teacher), no gradient through sampling

Source: on-policy distillation as in Agarwal et al. 2024 (arXiv 2306.13649), reverse KL.
"""

import pyarrow as pa

from pipeline.method.objectives import Example, Slice, Terms
from pipeline.method.objectives.weighted import reverse_kl, whole_response


def examples(rollouts: pa.Table) -> list[Example]:
    """One example per rollout; every response token counts fully."""
    return [whole_response(row, 1.0) for row in rollouts.to_pylist()]


def terms(piece: Slice, correct: bool) -> Terms:
    """`correct` changes nothing: the loss is exact at each state that the rollouts visit."""
    kl_T = reverse_kl(piece)
    return Terms(kl_T * piece.signal_T * piece.weight_T, kl_T * 0)
