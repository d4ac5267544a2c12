"""embedding-variance: where the student's own continuations mean different things.

Of the 3M starts that peak-entropy would take, the M whose continuations by the student are
furthest apart: 1 - the mean cosine of their sentence embeddings.

source  a public re-implementation of arXiv 2606.01476 names it; its text is not confirmed. Ours
        where it is silent: candidates keep peak-entropy's distance of a chunk, so that any M of
        them can be audited together; continuations are a chunk long, drawn at temperature 1 from
        the full vocabulary as the entropies are, and left-stripped as before any metric; values
        are rounded to 1e-6, so that equal texts tie, and ties go to the later start.
"""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.method.schedulers import Response, peak_entropy

CANDIDATES = 3  # for each fork that is kept

# starts of each response: the texts of the student's continuations of each start
Continue = Callable[[list[list[int]]], list[list[list[str]]]]
Embed = Callable[[Sequence[str]], np.ndarray]  # unit vectors (texts, dimensions)


def positions(responses: Sequence[Response], student: Continue, embed: Embed) -> list[list[int]]:
    """Chunk starts of each response, ascending; fewer than max_forks if no more fit."""
    candidates = [
        peak_entropy.positions(r._replace(max_forks=CANDIDATES * r.max_forks)) for r in responses
    ]
    texts = student(candidates)
    unique = sorted({text for starts in texts for drawn in starts for text in drawn})
    if not unique:
        return candidates
    vectors = dict(zip(unique, embed(unique), strict=True))
    return [
        _best(
            {
                start: variance(np.stack([vectors[text] for text in drawn]))
                for start, drawn in zip(starts, found, strict=True)
            },
            response.max_forks,
        )
        for response, starts, found in zip(responses, candidates, texts, strict=True)
    ]


def variance(vectors_ND: np.ndarray) -> float:
    """1 - the mean cosine of the N (N - 1) / 2 pairs of unit vectors."""
    cosines_NN = vectors_ND.astype(np.float64) @ vectors_ND.T.astype(np.float64)
    above = np.triu_indices(len(cosines_NN), 1)
    return round(1.0 - float(cosines_NN[above].mean()), 6)


def _best(variances: dict[int, float], most: int) -> list[int]:
    return sorted(sorted(variances, key=lambda t: (variances[t], t))[-most:])
