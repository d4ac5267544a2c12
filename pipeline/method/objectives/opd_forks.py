"""opd-forks: opd's reverse KL on the audited tokens only, the method's anchor on the rest.

    sum over chunks of KL(pi_theta || pi_teacher)_i + beta * sum outside of KL(pi_ref || pi_theta)_i

Placement without sampling: what the teacher's logits say at the places where omniopd asks.
"""

import pyarrow as pa

from pipeline.method.objectives import Example, Slice, Terms
from pipeline.method.objectives.weighted import anchor, chunked, reverse_kl


def examples(rollouts: pa.Table, forks: pa.Table) -> list[Example]:
    """One example per rollout, in the rollouts' order. Raises UserError if they do not match."""
    places = forks.select(["rollout_id", "position", "length"]).to_pylist()
    return chunked(rollouts, [(*row.values(), 1.0) for row in places], "forks")


def terms(piece: Slice, correct: bool) -> Terms:
    """`correct` changes nothing: the loss is exact at each state that the rollouts visit."""
    return Terms(reverse_kl(piece) * piece.signal_T * piece.weight_T, anchor(piece))
