"""Inverse-transform sampling: a row's token is a function of its logits and its own uniform."""

from typing import NamedTuple

import torch


class Sampler(NamedTuple):
    temperature: float  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off


GREEDY = Sampler(0.0)


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
