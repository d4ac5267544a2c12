"""rft: cross-entropy on the student's own responses that the checker accepts.

A response that it rejects, or that was cut by the length limit, is left out.

Source: rejection sampling fine-tuning, Yuan et al. 2023 (arXiv 2308.01825), here in every round.
"""

from typing import TYPE_CHECKING

from pipeline.config.method import Corrected
from pipeline.core.errors import UserError
from pipeline.method.objectives import Evidence, Example, Objective, Parts, Slice, Terms
from pipeline.method.objectives.weighted import nll, whole_response

if TYPE_CHECKING:
    import pyarrow as pa

OBJECTIVE = Objective(("rollouts",), Corrected, reward=True, accepted=True, group="train-grpo")


def parts(evidence: Evidence, own: Corrected) -> Parts:
    return (examples(rollouts) for (rollouts,) in evidence.beside())


def examples(rollouts: "pa.Table") -> tuple[list[Example], int]:
    """Examples in the rollouts' order, and how many responses were left out."""
    if rollouts.column("reward").null_count:
        raise UserError("rft: rollouts without a reward. Use a task that has a checker.")
    rows = rollouts.to_pylist()
    right = [row for row in rows if row["reward"] == 1 and row["finish_reason"] == "stop"]
    return [whole_response(row, 1.0) for row in right], len(rows) - len(right)


def terms(piece: Slice, own: Corrected) -> Terms:
    signal_T = nll(piece, own.corrects)
    return Terms(signal_T, signal_T * 0)
