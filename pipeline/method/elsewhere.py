"""An engine's word on its own samples, beside the exact pass.

rollout.exact engine: the table has what the engine kept, and some rows of a cell are read through
the exact pass, which stops the stage where they are too far apart. pass: all rows are read, and
what is said here is a diagnostic. Where the forks would lie if the engine's entropies chose them is
no part of a cell: scheduler peak-entropy at the forks' sizes that params.yaml has now, which are
said beside the counts.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from pipeline.config import params_file
from pipeline.config.method import Placed
from pipeline.core import seeds
from pipeline.core.errors import UserError
from pipeline.data.text import starts
from pipeline.method.schedulers import Response, peak_entropy

SHARE, FEWEST, MOST = 0.05, 4, 32  # of a cell's rows that are read once more
Counts = dict[str, float | int]


class Values(NamedTuple):
    """Of each token of a response, nats."""

    logps_T: np.ndarray
    entropies_T: np.ndarray


class Seen(NamedTuple):
    """A response with its values, once exact and once as the engine has them."""

    token_ids: list[int]
    text: str
    exact: Values
    engine: Values


class Limit(NamedTuple):
    """The largest distance from the exact pass that is taken for rounding, nats."""

    mean: float
    most: float


# of float32 some 40 times what was seen (LOG.md); else what another trainer's rollouts may be
# off before a warning
LIMITS = {"float32": Limit(2e-4, 2e-3)}
COARSE = Limit(0.05, math.inf)
VALUES = {"engine_gap": "log-probabilities", "engine_entropy_gap": "entropies"}


def count(total: int) -> int:
    """How many of a cell's rows are read once more."""
    return min(total, MOST, max(FEWEST, math.ceil(SHARE * total)))


def chosen(total: int, samples: int, *names: str | int) -> list[int]:
    """Rows to read once more, ascending: the `samples` of prompts that are drawn by `names`, as a
    prompt is read once for all of them."""
    prompts = seeds.generator(*names).permutation(total // samples)
    rows = (prompts[:, None] * samples + np.arange(samples)).ravel()
    return sorted(rows[: count(total)].tolist())


def compared(responses: Iterable[Seen], decode: Callable[[list[int]], str]) -> Counts:
    """How far the engine's values are from the exact ones, nats, and of the forks that its
    entropies choose how many the exact ones do not; none where params.yaml has no forks."""
    sizes = params_file.free("forks", Placed) if params_file.untracked("forks") else None
    sums, largest, tokens = np.zeros(2), np.zeros(2), 0
    forks = moved = 0
    for seen in responses:
        gaps = np.abs(np.array(seen.engine, np.float64) - np.array(seen.exact, np.float64))
        sums, largest = sums + gaps.sum(1), np.maximum(largest, gaps.max(1))
        tokens += gaps.shape[1]
        if sizes is not None:
            both = (seen.exact.entropies_T, seen.engine.entropies_T)
            ours, theirs = (set(_starts(seen, x, sizes, decode)) for x in both)
            forks, moved = forks + len(theirs), moved + len(theirs - ours)
    found: Counts = {}
    for name, total, most in zip(VALUES, sums.tolist(), largest.tolist(), strict=True):
        found |= {f"{name}_mean": total / max(tokens, 1), f"{name}_max": most}
    if sizes is not None:
        found |= {
            "engine_forks": forks,
            "engine_forks_elsewhere": moved / max(forks, 1),
            "engine_forks_max": sizes.max_forks,
            "engine_forks_chunk_tokens": sizes.chunk_tokens,
        }
    return found


def of_samples(
    sampled_B: Iterable[Any], exact_B: Iterable[Any], decode: Callable[[list[int]], str]
) -> Counts:
    """The same of an engine's samples beside the exact pass' log-probabilities and entropies."""
    seen = (
        Seen(
            one.token_ids,
            decode(one.token_ids),
            Values(*row),
            Values(*map(np.array, one[2:])),
        )
        for one, row in zip(sampled_B, exact_B, strict=True)
    )
    return compared(seen, decode)


def refuse_far(counts: Counts, rows: int, dtype: str) -> None:
    """Raise UserError where the engine's values in `rows` responses are too far from exact ones.

    `dtype`: in which both were computed.
    """
    limit = LIMITS.get(dtype, COARSE)
    for name, what in VALUES.items():
        mean, most = counts[f"{name}_mean"], counts[f"{name}_max"]
        if not (mean <= limit.mean and most <= limit.most):  # what is no number is refused, too
            raise UserError(
                f"engine vllm: found its {what} {mean:.2g} nats off those of the exact pass on "
                f"average and {most:.2g} at most, over {rows} responses, wanted at most "
                f"{limit.mean:g} and {limit.most:g} in {dtype}. It computes something else than "
                "the checkpoint says, so nothing of it was kept. Set rollout.exact: pass, which "
                "reads every response, or rollout.engine: hf."
            )


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
