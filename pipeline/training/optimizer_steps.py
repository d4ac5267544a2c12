"""A step of the optimizer: which examples it takes, with what they are optimised, what it sums."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.core import seeds
from pipeline.method.objectives import TermsOf
from pipeline.training.process_group import Group, One


@dataclass(frozen=True)
class Step:
    """The settings of an optimizer step, beside its examples."""

    terms: TermsOf
    beta: float
    token_mean: bool
    micro_batch_size: int  # sequences in a forward pass
    bfloat16: bool = False  # matrix products of the body in bfloat16; weights and losses float32
    batch_tokens: int | None = None  # tokens, padding included, that a forward pass may hold
    group: Group = field(default_factory=One)  # of processes that share the step
    norms: bool = True  # of each term's gradient are measured: a backward pass and a set more

    @property
    def apart(self) -> bool:
        """Whether the signal's gradient is kept beside the whole one."""
        return self.norms and self.beta > 0


@dataclass
class Sums:
    """Sums over a step's tokens and responses, from which its metrics are made."""

    responses: int = 0
    signal_tokens: int = 0
    anchor_tokens: int = 0
    own_tokens: float = 0  # tokens that the rollout policy wrote
    signal: float = 0.0
    anchor: float = 0.0
    drift: float = 0.0
    has_signal: bool = False  # a token whose signal has a gradient
    grads: list[torch.Tensor] = field(default_factory=list)
    signal_grads: list[torch.Tensor] = field(default_factory=list)  # of the signal alone, if asked


def order(count: int, batch_size: int, epochs: int, *names: str | int) -> Iterator[np.ndarray]:
    """Indices of each optimizer step's examples: a new permutation each epoch."""
    for epoch in range(epochs):
        shuffled = seeds.generator(*names, epoch).permutation(count)
        yield from (shuffled[i : i + batch_size] for i in range(0, count, batch_size))


def metrics(sums: Sums, scales: tuple[float, float], step: Step) -> dict[str, float | None]:
    """The metrics of a step; `scales`: what each term is multiplied with in the loss."""
    signal = sums.signal / max(sums.responses, 1)
    anchor = sums.anchor / max(sums.responses, 1)
    found: dict[str, float | None] = {
        "train/loss": sums.signal * scales[0] + sums.anchor * scales[1],
        "train/signal": signal,  # per response, not scaled
        "train/anchor": anchor,  # per response, not scaled by beta
        "train/signal_per_token": sums.signal / max(sums.signal_tokens, 1),
        "train/anchor_per_token": sums.anchor / max(sums.anchor_tokens, 1),
        **_norms(sums, step),
        "train/responses": sums.responses,
        "train/signal_tokens": sums.signal_tokens,
        "train/anchor_tokens": sums.anchor_tokens,
    }
    if sums.own_tokens:
        found["train/drift"] = sums.drift / sums.own_tokens  # nats per token
    return found


def _norms(sums: Sums, step: Step) -> dict[str, float | None]:
    """The gradient norm of each term, null where the step does not ask for them."""
    signal = anchor = None
    if step.norms:
        signal = step.group.norm(sums.signal_grads)
        anchor = step.group.norm(sums.grads, sums.signal_grads) if step.apart else 0.0
    return {"train/signal_grad_norm": signal, "train/anchor_grad_norm": anchor}
