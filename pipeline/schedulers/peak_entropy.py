"""peak-entropy: greedy by descending entropy.

source  arXiv 2606.01476, the peak-entropy scheduler
"""

import numpy as np

from pipeline.schedulers import Eligible


def positions(entropies: np.ndarray, max_forks: int, chunk: int, eligible: Eligible) -> list[int]:
    """Chunk starts t, ascending, with t + chunk <= T; ties go to the later t; fewer than
    max_forks if no more fit."""
    starts = np.arange(len(entropies) - chunk + 1)
    # last key first: by falling entropy, then by falling t
    ranked = np.lexsort((-starts, -entropies[: len(starts)].astype(np.float64)))
    taken: list[int] = []
    for start in ranked.tolist():
        if len(taken) == max_forks:
            break
        if all(abs(start - other) >= chunk for other in taken) and eligible(start):
            taken.append(start)
    return sorted(taken)
