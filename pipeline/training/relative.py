"""Weights that a step's examples have only once it begins: of losses that are no sum over tokens.

The student and the round-0 checkpoint read the examples of the step, and the objective makes of
log(pi_theta / pi_ref) what each token counts for. The gradient of its loss is then that of weighted
log-probabilities, which the loop takes as it does any other (pipeline/training/gradients.py).

Axes: T tokens, H hidden size.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.engines.scoring_pass import LOGITS_PER_CHUNK
from pipeline.method.objectives import Example, Sequence
from pipeline.training.gradients import frozen_hidden, hidden, micro_batches

if TYPE_CHECKING:
    from pipeline.engines.hf import Frozen, Policy
    from pipeline.training.optimizer_steps import Step

Relative = Callable[[Example, list[np.ndarray]], Example]


@torch.no_grad()
def weighed(
    student: "Policy",
    frozen: "Frozen",
    examples: list[Example],
    step: "Step",
    weigh: Relative,
) -> list[Example]:
    """The examples as `weigh` makes them of the log-ratios of their tokens, nats.

    Each process of a group reads all of them, as a weight may depend on several sequences.
    """
    ratios: dict[int, np.ndarray] = {}
    sequences = [s for example in examples for s in example.sequences]
    for batch in micro_batches(sequences, step.micro_batch_size, step.batch_tokens):
        ends = np.cumsum([len(s.token_ids) for s in batch])
        own = np.split(_ratios(student, frozen, batch, step), ends[:-1])
        ratios |= {id(s): ratio_T for s, ratio_T in zip(batch, own, strict=True)}
    return [weigh(e, [ratios[id(s)] for s in e.sequences]) for e in examples]


def _ratios(student: "Policy", frozen: "Frozen", batch: list[Sequence], step: "Step") -> np.ndarray:
    """log(pi_theta / pi_ref) of the tokens of a batch, (T,), float64."""
    reference = frozen.reference
    assert reference is not None
    theirs_TH = frozen_hidden(reference, student, batch, step.bfloat16)
    assert theirs_TH is not None
    ours_TH, piece = hidden(student, batch, step.bfloat16)
    with step.group.heads(student, frozen):
        ours_T = _logp(student, ours_TH, piece["tokens_T"])
        theirs_T = _logp(reference, theirs_TH, piece["tokens_T"])
    found: np.ndarray = (ours_T.double() - theirs_T.double()).cpu().numpy()
    return found


def _logp(policy: "Policy", hidden_TH: torch.Tensor, tokens_T: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (T,) of the tokens, in slices as the loss itself is taken."""
    width = max(1, LOGITS_PER_CHUNK // len(policy.unused_vocab_mask))
    pieces = zip(torch.split(hidden_TH, width), torch.split(tokens_T, width), strict=True)
    logps = (torch.log_softmax(policy.head(h), -1).gather(1, t[:, None])[:, 0] for h, t in pieces)
    return torch.cat(list(logps))
