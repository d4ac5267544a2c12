"""sft: cross-entropy on full solutions that the teacher wrote.

An answer cut by the token limit is counted and left out: its end is not the teacher's.
"""

from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.params import Params
from pipeline.method.objectives import (
    Evidence,
    Example,
    Objective,
    Parts,
    Sequence,
    Slice,
    Terms,
)
from pipeline.method.objectives.weighted import nll

if TYPE_CHECKING:
    import pyarrow as pa

OBJECTIVE = Objective(("prompts", "solutions"), group="train-sft")


def parts(evidence: Evidence, own: Params) -> Parts:
    ids = evidence.prompt_ids()
    return (examples(answers, ids, evidence.end) for answers in evidence.each("answers"))


def examples(
    answers: "pa.Table", prompt_ids: dict[str, list[int]], end: int
) -> tuple[list[Example], int]:
    """Examples in the answers' order, and how many cut answers were left out.

    `end` is the student's own end of a turn.
    """
    found, cut = [], 0
    for row in answers.to_pylist():
        if not row["ended"]:
            cut += 1
            continue
        token_ids = [*row["token_ids"], end]
        ones = np.ones(len(token_ids), np.float32)
        found.append(
            Example(
                [
                    Sequence(
                        prompt_ids[row["rollout_id"]],
                        token_ids,
                        ones.astype(bool),
                        ones,
                        np.zeros(len(token_ids), bool),
                        None,
                    )
                ]
            )
        )
    return found, cut


def terms(piece: Slice, own: Params) -> Terms:
    """No correction: the student did not write these tokens."""
    signal_T = nll(piece, correct=False)
    return Terms(signal_T, signal_T * 0)
