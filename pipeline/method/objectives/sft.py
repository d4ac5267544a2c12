"""sft: cross-entropy on full solutions that the teacher wrote.

An answer cut by the token limit is counted and left out: its end is not the teacher's.
"""

import numpy as np
import pyarrow as pa

from pipeline.method.objectives import Example, Sequence, Slice, Terms
from pipeline.method.objectives.weighted import nll


def examples(
    answers: pa.Table, prompt_ids: dict[str, list[int]], end: int
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


def terms(piece: Slice, correct: bool) -> Terms:
    """No correction: the student did not write these tokens."""
    signal_T = nll(piece, correct=False)
    return Terms(signal_T, signal_T * 0)
