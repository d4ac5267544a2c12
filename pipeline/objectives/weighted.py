"""Pieces that several objectives are made of: whole responses, weighted likelihood, the anchor."""

from typing import Any

import numpy as np
import torch

from pipeline.objectives import RATIO_CAP, Example, Sequence, Slice


def whole_response(row: dict[str, Any], weight: float) -> Example:
    """A rollout of which every token is signal, with one weight."""
    total = len(row["token_ids"])
    return Example(
        [
            Sequence(
                row["prompt_token_ids"],
                row["token_ids"],
                np.ones(total, bool),
                np.full(total, weight, np.float32),
                np.zeros(total, bool),
                np.asarray(row["logprobs"], np.float32),
            )
        ]
    )


def nll(piece: Slice, correct: bool) -> torch.Tensor:
    """-w * log pi_theta(y) on signal tokens, (T,). w is a constant.

    With `correct`, a token's gradient is multiplied by min(pi_theta/pi_rollout, 2), no gradient
    through the ratio.
    """
    logp_T = piece.logp_T()
    weight_T = piece.weight_T * piece.signal_T
    if correct:
        ratio_T = (logp_T.detach() - piece.old_logp_T).exp().clamp(max=RATIO_CAP)
        weight_T = weight_T * ratio_T
    return -weight_T * logp_T


def anchor(piece: Slice) -> torch.Tensor:
    """KL(reference || student) over the full vocabulary on anchor tokens, (T,), nats."""
    if piece.other_TV is None:
        return torch.zeros_like(piece.weight_T)
    kl_T = (piece.other_TV.exp() * (piece.other_TV - piece.student_TV)).sum(-1)
    return kl_T * piece.anchor_T
