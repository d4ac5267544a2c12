"""peak-entropy: greedy by descending entropy.

source  arXiv 2606.01476, the peak-entropy scheduler
"""

import numpy as np

from pipeline.method.schedulers import Response, greedy


def positions(response: Response) -> list[int]:
    """Chunk starts t, ascending, with t + chunk <= T; ties go to the later t; fewer than
    max_forks if no more fit."""
    entropies_T = response.entropies_T.astype(np.float64)
    starts = np.arange(len(entropies_T) - response.chunk + 1)
    # last key first: by falling entropy, then by falling t
    ranked = np.lexsort((-starts, -entropies_T[: len(starts)]))
    return greedy(ranked.tolist(), response)
