"""Divergences of log-probabilities (T, V) that keep little for the backward pass.

Axes: T tokens, V vocabulary.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


def forward_kl(student_TV: torch.Tensor, reference_TV: torch.Tensor) -> torch.Tensor:
    """KL(reference || student), (T,), nats; the student's log-probabilities have a gradient."""
    found: torch.Tensor = _ForwardKL.apply(student_TV, reference_TV)  # type: ignore[no-untyped-call]
    return found


class _ForwardKL(torch.autograd.Function):
    """Autograd would keep the reference's probabilities too, which are as large as the logits; here
    they are computed again."""

    @staticmethod
    def forward(ctx: Any, student_TV: torch.Tensor, reference_TV: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(reference_TV)
        return (reference_TV - student_TV).mul_(reference_TV.exp()).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_T: torch.Tensor) -> tuple[torch.Tensor, None]:
        (reference_TV,) = ctx.saved_tensors
        return reference_TV.exp().mul_(-grad_T[:, None]), None
