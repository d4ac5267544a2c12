"""Schedulers pick where a response is audited: chunk starts, none closer than a chunk apart.

A scheduler is a file of this folder with `positions(response)`, and its name in SCHEDULERS.
(`whole` is no choice: evaluate.agreement has it.)
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipeline.core.chosen import chosen, file_of

SCHEDULERS = ("peak-entropy", "uniform", "embedding-variance", "confident-mistakes")

Eligible = Callable[[int], bool]  # may a chunk start at token t?


class Response(NamedTuple):
    """The facts about a response of T tokens that a scheduler may use."""

    entropies_T: np.ndarray  # float32, nats, of the distribution that each token was drawn from
    max_forks: int  # M, chunks at most
    chunk: int  # C, tokens
    eligible: Eligible
    draw: np.random.Generator  # of this response alone


Scheduler = Callable[
    [Response], list[int]
]  # chunk starts t, ascending; t + chunk <= T but for whole


def load(name: str) -> Scheduler:
    """The scheduler called `name`. (embedding-variance asks the student: stages/forks.py.)"""
    found: Scheduler = chosen("pipeline.method.schedulers", file_of(name), "positions")
    return found


def greedy(starts: list[int], response: Response) -> list[int]:
    """The first eligible `starts` that fit, none closer than a chunk to one before; ascending."""
    taken: list[int] = []
    for start in starts:
        if len(taken) == response.max_forks:
            break
        apart = all(abs(start - other) >= response.chunk for other in taken)
        if apart and response.eligible(start):
            taken.append(start)
    return sorted(taken)
