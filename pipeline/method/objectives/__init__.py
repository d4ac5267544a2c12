"""Objectives: examples from tables, and per-token losses from log-probabilities.

An objective is a file with `examples(...)`, which turns tables into token arrays, and
`terms(slice, ...)`, which turns a slice of tokens into per-token losses. Reduction, slicing and
accumulation are the loop's (pipeline/training/gradients.py), the same for all.

Axes: T tokens, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


class Sequence(NamedTuple):
    """One token sequence that is read by the model. Arrays are over its last T tokens."""

    context_ids: list[int]  # what stands before the trained tokens
    token_ids: list[int]  # (T,)
    signal_T: np.ndarray  # bool: the objective's own term acts here
    weight_T: np.ndarray  # float32: pi_hat, advantage or 1; meaningless where signal is false
    anchor_T: np.ndarray  # bool: KL(reference || student) acts here
    old_logp_T: np.ndarray | None  # nats, of the policy that wrote the tokens; None: not its own


@dataclass(frozen=True)
class Example:
    """One response, the unit that a batch counts, with the sequences that train on it."""

    sequences: list[Sequence]


class Slice(NamedTuple):
    """A slice of tokens in float32; `student_TV` carries the gradient."""

    student_TV: "torch.Tensor"  # log-probabilities
    reference_TV: "torch.Tensor | None"  # log-probabilities of the round-0 checkpoint
    teacher_TV: "torch.Tensor | None"  # log-probabilities of a white-box teacher
    tokens_T: "torch.Tensor"
    signal_T: "torch.Tensor"
    weight_T: "torch.Tensor"
    anchor_T: "torch.Tensor"
    old_logp_T: "torch.Tensor"  # zeros where there is none

    def logp_T(self) -> "torch.Tensor":
        return self.student_TV.gather(1, self.tokens_T[:, None])[:, 0]


class Terms(NamedTuple):
    """Per-token losses, nats, zero outside their masks."""

    signal_T: "torch.Tensor"
    anchor_T: "torch.Tensor"


TermsOf = Callable[[Slice, bool], Terms]  # bool: correct for the drift from the rollout policy
RATIO_CAP = 2.0  # `correction: ratio` multiplies a token's gradient by min(ratio, cap)
