"""confident-mistakes: forks in turn where the student was unsure and where it was sure.

The first, third and so on are the highest entropies that fit, as peak-entropy takes them. The
others are drawn at random among the starts whose entropy is at most the response's median: there a
student that is wrong is wrong with confidence, which entropy cannot show and a teacher can.

source  TIP (arXiv 2604.14084), abstract: informative tokens have high student entropy, or low
        entropy and a teacher that disagrees. Which of the sure places those are takes the teacher's
        probabilities; a text-only teacher has to be asked. Ours: places are drawn, as many of each
        kind as fit in turn, and all of them are asked about.
"""

import numpy as np

from pipeline.method.schedulers import Response


def positions(response: Response) -> list[int]:
    """Chunk starts t, ascending, with t + chunk <= T; fewer than max_forks if no more fit."""
    entropies_T = response.entropies_T.astype(np.float64)
    starts = np.arange(len(entropies_T) - response.chunk + 1)
    unsure = np.lexsort((-starts, -entropies_T[: len(starts)]))  # ties go to the later t
    sure = response.draw.permutation(starts[entropies_T[: len(starts)] <= np.median(entropies_T)])
    kinds, taken = (unsure.tolist(), sure.tolist()), list[int]()
    for number in range(response.max_forks):
        first, second = kinds[number % 2], kinds[1 - number % 2]
        start = next((t for t in (*first, *second) if _fits(t, taken, response)), None)
        if start is None:
            break
        taken.append(start)
    return sorted(taken)


def _fits(start: int, taken: list[int], response: Response) -> bool:
    apart = all(abs(start - other) >= response.chunk for other in taken)
    return apart and response.eligible(start)
