"""An engine's word on its own samples, beside the exact pass: diagnostics of rollouts.

How far its log-probabilities are from the exact ones; with `runtime.engine_entropies` also where
the forks would lie if its entropies chose them. That is no part of a cell: scheduler peak-entropy
at the forks' sizes that params.yaml has now, which are said beside the counts.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.config import params_file
from pipeline.config.method import Placed
from pipeline.data.text import starts
from pipeline.method.schedulers import Response, peak_entropy


class Seen(NamedTuple):
    """A response with its entropies, nats, once exact and once as the engine has them."""

    token_ids: list[int]
    text: str
    exact_T: np.ndarray
    engine_T: np.ndarray


def gaps(
    engine_B: Iterable[Sequence[float] | None], exact_B: Iterable[np.ndarray]
) -> dict[str, float]:
    """Mean and largest distance (nats) of the engine's log-probabilities from the exact ones."""
    total, largest, tokens = 0.0, 0.0, 0
    for own_T, logps_T in zip(engine_B, exact_B, strict=True):
        gap_T = np.abs(np.array(own_T) - logps_T)
        total, tokens = total + float(gap_T.sum()), tokens + len(gap_T)
        largest = max(largest, float(gap_T.max()))
    return {"engine_gap_mean": total / tokens, "engine_gap_max": largest}


def elsewhere(
    responses: Iterable[Seen], decode: Callable[[list[int]], str]
) -> dict[str, float | int]:
    """Forks that the engine's entropies choose, and how many of them the exact ones do not."""
    sizes = params_file.free("forks", Placed)
    chosen = moved = tokens = 0
    below = 0.0
    for seen in responses:
        ours, theirs = (set(_starts(seen, x, sizes, decode)) for x in (seen.exact_T, seen.engine_T))
        chosen, moved = chosen + len(theirs), moved + len(theirs - ours)
        below += float((seen.exact_T - seen.engine_T).sum())
        tokens += len(seen.exact_T)
    return {
        "engine_entropy_below_mean": below / max(tokens, 1),  # nats that the estimate lacks
        "engine_forks": chosen,
        "engine_forks_elsewhere": moved / max(chosen, 1),
        "engine_forks_max": sizes.max_forks,
        "engine_forks_chunk_tokens": sizes.chunk_tokens,
    }


def _starts(
    seen: Seen, entropies_T: np.ndarray, sizes: Placed, decode: Callable[[list[int]], str]
) -> list[int]:
    def eligible(start: int) -> bool:
        return starts(seen.text, decode(seen.token_ids[:start]))

    entropies_T = np.asarray(entropies_T, np.float32)
    unused = np.random.default_rng(0)  # this scheduler draws nothing
    return peak_entropy.positions(
        Response(entropies_T, sizes.max_forks, sizes.chunk_tokens, eligible, unused)
    )
