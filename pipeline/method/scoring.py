"""Scores of a whole round: whether they can teach anything, and shuffled as those of a control.

Axes: F forks, N teacher samples.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.config.method import Score
from pipeline.core.errors import UserError

MOST_ZERO = 0.9  # share of forks with k_sem = 0 above which exactness says nothing
LEAST_CONTRAST = 0.03  # agreement at a fork above that between problems


def check_flat(found: np.ndarray, levels: tuple[float, float] | None, p: Score) -> None:
    """Raise UserError if the scores can teach nothing but what the student already does."""
    if p.allow_flat or not found.size:
        return
    remedy = (
        "Use another score.metric or a shorter forks.chunk_tokens, or set score.allow_flat: true "
        "to go on anyway."
    )
    zero = float((found.sum(1) == 0).mean())
    if zero > MOST_ZERO:
        raise UserError(
            f"score: k_sem is 0 in {zero:.0%} of {len(found)} forks with metric {p.metric}, more "
            f"than {MOST_ZERO:.0%}: nothing but self-reinforcement would be left. {remedy}"
        )
    if levels is not None and levels[0] - levels[1] < LEAST_CONTRAST:
        raise UserError(
            f"score: two teacher answers at one fork are {levels[0]:.3f} alike and answers to "
            f"different problems {levels[1]:.3f}, less than {LEAST_CONTRAST} apart with metric "
            f"{p.metric}. {remedy}"
        )


def shuffled(
    found: np.ndarray, group: Sequence[str] | np.ndarray, draw: np.random.Generator
) -> np.ndarray:
    """`found` (F, ...), its rows permuted within each group: a fork's N values stay together."""
    order = draw.permutation(len(found))
    _, group_F = np.unique(group, return_inverse=True)
    moved = np.empty_like(found)
    moved[np.argsort(group_F, kind="stable")] = found[
        order[np.argsort(group_F[order], kind="stable")]
    ]
    return moved
