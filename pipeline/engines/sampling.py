"""Inverse-transform sampling: a row's token is a function of its logits and its own uniform."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Sampler(NamedTuple):
    temperature: float  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off


GREEDY = Sampler(0.0)


@dataclass(frozen=True)
class Generated:
    token_ids: list[int]  # ends with an end exactly when finish_reason is stop
    finish_reason: str  # stop, length


def generated(ends: Collection[int], token_ids: list[int]) -> Generated:
    return Generated(token_ids, "stop" if token_ids[-1] in ends else "length")


class Watch:
    """Tells of each row, once it has ended while others are still sampled: its number, tokens and
    entropies.

    Entropies are nats of the untempered logits that its tokens came from: those of the exact pass
    up to rounding, as they come from other batches.
    """

    def __init__(self, told: Callable[[int, list[int], list[float]], None]) -> None:
        self._told = told
        self._rows: list[int] = []
        self._found: list[list[float]] = []

    def begin(self, rows: Sequence[int]) -> None:
        """A batch of the rows of these numbers; what else stands in it is nobody's."""
        self._rows, self._found = list(rows), [[] for _ in rows]

    def step(
        self,
        alive: list[int],
        logits_BV: torch.Tensor,
        tokens: list[list[int]],
        running: Collection[int],
    ) -> None:
        """One more token of some of the rows `alive`; places that are `running` go on."""
        entropies_B, goes_on = entropies(logits_BV).tolist(), set(running)
        for place, row in enumerate(alive):
            if row >= len(self._rows) or len(self._found[row]) == len(tokens[row]):
                continue  # it ended before
            self._found[row].append(entropies_B[place])
            if place not in goes_on:
                self._told(self._rows[row], tokens[row], self._found[row])


def entropies(logits_BV: torch.Tensor) -> torch.Tensor:
    """Entropy (B,) of each row's distribution, nats."""
    logits_BV = logits_BV - logits_BV.amax(-1, keepdim=True)
    odds_BV = logits_BV.exp()
    total_B = odds_BV.sum(-1)
    mean_B = odds_BV.mul_(logits_BV).sum(-1) / total_B
    return (total_B.log() - mean_B).clamp(min=0)


def sample(logits_BV: torch.Tensor, uniforms_B: torch.Tensor, sampler: Sampler) -> torch.Tensor:
    """Token ids (B,): the first id whose cumulative probability exceeds the row's uniform."""
    if sampler.temperature == 0:
        return logits_BV.argmax(-1)
    probs_BV = torch.softmax(logits_BV / sampler.temperature, dim=-1)
    if sampler.top_k or sampler.top_p < 1:
        probs_BV = _truncate(probs_BV, sampler)
    cumulative_BV = probs_BV.double().cumsum(-1)
    # scaled by the total and below it, so that rounding can never point at an id of probability 0
    total_B = cumulative_BV[:, -1]
    below_B = torch.nextafter(total_B, torch.zeros_like(total_B))
    at_B = torch.minimum(uniforms_B.double() * total_B, below_B)
    return torch.searchsorted(cumulative_BV, at_B[:, None], right=True)[:, 0]


def _truncate(probs_BV: torch.Tensor, sampler: Sampler) -> torch.Tensor:
    """Zero what top_k and top_p leave out; top_p keeps the id that crosses it."""
    ordered, ids = probs_BV.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    drop = before >= sampler.top_p
    if sampler.top_k:
        drop[:, sampler.top_k :] = True
    return probs_BV.scatter(-1, ids, ordered.masked_fill(drop, 0.0))
