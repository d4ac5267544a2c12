"""uniform: starts in random order, the control for peak-entropy."""

from pipeline.method.schedulers import Response, greedy


def positions(response: Response) -> list[int]:
    """Chunk starts t, ascending, with t + chunk <= T; fewer than max_forks if no more fit."""
    total = len(response.entropies_T)
    starts = response.draw.permutation(max(0, total - response.chunk + 1))
    return greedy(starts.tolist(), response)
