"""opd-forks: opd's reverse KL on the audited tokens only, the method's anchor on the rest.

    sum over chunks of KL(pi_theta || pi_teacher)_i + beta * sum outside of KL(pi_ref || pi_theta)_i

Placement without sampling: what the teacher's logits say at the places where omniopd asks.
"""

from typing import TYPE_CHECKING

from pipeline.config.method import Anchored
from pipeline.method.objectives import Evidence, Example, Objective, Parts, Slice, Terms
from pipeline.method.objectives.weighted import anchor, chunked, reverse_kl

if TYPE_CHECKING:
    import pyarrow as pa

OBJECTIVE = Objective(("rollouts", "forks"), Anchored, teacher=True, group="train-opd-forks")


def parts(evidence: Evidence, own: Anchored) -> Parts:
    return ((examples(*block), 0) for block in evidence.beside("forks"))


def examples(rollouts: "pa.Table", forks: "pa.Table") -> list[Example]:
    """One example per rollout, in the rollouts' order. Raises UserError if they do not match."""
    places = forks.select(["rollout_id", "position", "length"]).to_pylist()
    return chunked(rollouts, [(*row.values(), 1.0) for row in places], "forks")


def terms(piece: Slice, own: Anchored) -> Terms:
    """Exact at each state that the rollouts visit: no token is corrected."""
    return Terms(reverse_kl(piece) * piece.signal_T * piece.weight_T, anchor(piece))
