"""Pairs of texts by DPO: what each token counts for as a step begins, and the loss of a slice.

-log sigmoid(pair_beta * (log(pi_theta / pi_ref)(preferred) - log(pi_theta / pi_ref)(other)))
"""

from typing import TYPE_CHECKING

import numpy as np

from pipeline.method.objectives import Example, Slice
from pipeline.method.objectives.weighted import nll

if TYPE_CHECKING:
    import torch


def paired(example: Example, ratios: list[np.ndarray], pair_beta: float) -> Example:
    """The example with the weights and values that its pairs have at these log-ratios.

    The first sequence is the student's, the others are preferred to its tokens of their number.
    """
    response, *answers = example.sequences
    own_T, *others = ratios
    weight_T = np.zeros(len(response.token_ids))
    made = []
    numbers = [float(answer.weight_T[0]) for answer in answers]
    for answer, ratio_T, number in zip(answers, others, numbers, strict=True):
        chunk_T, pairs = response.weight_T == number, numbers.count(number)
        margin = pair_beta * (ratio_T.sum() - own_T[chunk_T].sum())
        pull = pair_beta / (1 + np.exp(margin)) / pairs
        weight_T[chunk_T] -= pull
        total = len(answer.token_ids)
        value = np.logaddexp(0, -margin) / pairs / total
        made.append(
            answer._replace(
                weight_T=np.full(total, pull, np.float32), value_T=np.full(total, value)
            )
        )
    silent = np.zeros(len(response.token_ids))
    return Example([response._replace(weight_T=weight_T.astype(np.float32), value_T=silent), *made])


def valued(piece: Slice) -> "torch.Tensor":
    """Weighted negative log-likelihood by its gradient, (T,), with the value that was found."""
    signal_T = nll(piece, correct=False)
    if piece.value_T is None:
        return signal_T
    return piece.value_T + signal_T - signal_T.detach()
