"""Rows of the rollouts table while they are made, and as they are handed to who buys ahead."""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np

from pipeline.config import params
from pipeline.config.method import Rollout
from pipeline.config.problems import Prepare
from pipeline.data import prompts
from pipeline.stage import ahead


class Hand(Protocol):
    def __call__(self, i: int, token_ids: list[int], entropies: Any, final: bool = False) -> None:
        """Hand a finished row over. `final`: the table will have these entropies."""
        ...


class RolloutParams(Rollout):
    prepare: Prepare
    seed: int
    round: params.Count


class Student(Protocol):
    @property
    def ends(self) -> Collection[int]: ...

    def decode(self, token_ids: Sequence[int]) -> str: ...


def row(
    asked: Sequence[prompts.Prompt],
    p: RolloutParams,
    i: int,
    context: list[int],
    token_ids: list[int],
    entropies: Any,
    text: str,
) -> dict[str, Any]:
    """Row i as far as it is known before it is read and graded."""
    prompt, sample = asked[i // p.samples_per_prompt], i % p.samples_per_prompt
    return {
        "rollout_id": f"{prompt.prompt_id}-{sample}",
        "prompt_id": prompt.prompt_id,
        "sample": sample,
        "round": p.round,
        "prompt_token_ids": context,
        "token_ids": token_ids,
        "entropies": entropies,
        "text": text,
    }


def handing(
    buyer: ahead.Buyer | None,
    student: Student,
    asked: Sequence[prompts.Prompt],
    contexts_B: Sequence[list[int]],
    p: RolloutParams,
) -> Hand | None:
    """Return what hands row i to the buyer, once with the entropies that the table will have."""
    if buyer is None:
        return None

    def hand(i: int, token_ids: list[int], entropies: Any, final: bool = False) -> None:
        if i in buyer.final:
            return
        if final:
            buyer.final.add(i)
        values = np.asarray(entropies, np.float32).tolist()
        found = row(asked, p, i, contexts_B[i], token_ids, values, student.decode(token_ids))
        found["finish_reason"] = "stop" if token_ids[-1] in student.ends else "length"
        buyer.hand(found)

    return hand
