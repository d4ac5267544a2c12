"""uniform: starts in random order, the control for peak-entropy."""

import numpy as np

from pipeline.schedulers import Eligible


def positions(
    total: int, max_forks: int, chunk: int, eligible: Eligible, draw: np.random.Generator
) -> list[int]:
    """Chunk starts t, ascending, with t + chunk <= total; fewer if no more fit."""
    taken: list[int] = []
    for start in draw.permutation(max(0, total - chunk + 1)).tolist():
        if len(taken) == max_forks:
            break
        if all(abs(start - other) >= chunk for other in taken) and eligible(start):
            taken.append(start)
    return sorted(taken)
