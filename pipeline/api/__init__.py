"""The method as functions, for people who keep their trainer: docs/api.md shows a whole step.

    forks     entropies of a response -> where the teacher is asked to go on
    weights   what the teacher wrote there -> the weight of each chunk
    loss      weights on a padded batch -> the loss of omniopd, with its KL to the base model

They are the functions that the stages call, with the same numbers, without tables, DVC or params.
Source: arXiv 2606.01476.
"""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.commands.exports.trl_loss import collate, counts, loss
from pipeline.core.errors import UserError
from pipeline.method import schedulers, similarity
from pipeline.method.posterior import confidence
from pipeline.method.targets import by_scores
from pipeline.method.weight import weights as weighed

__all__ = ["collate", "counts", "forks", "loss", "weights"]


def forks(
    entropies_T: Sequence[float] | np.ndarray,
    most: int = 3,
    chunk: int = 6,
    eligible: Callable[[int], bool] = lambda t: True,
) -> list[int]:
    """Chunk starts t, ascending, at the response's `most` peaks of entropy, with t + chunk <= T.

    `entropies_T`: nats, of the distribution that each of the response's T tokens was drawn from.
    No two starts are closer than `chunk` tokens. `eligible(t)`: whether a chunk may start at t (the
    stages want that the text before it is a prefix of the whole text).
    """
    if most < 1 or chunk < 1:
        raise UserError(f"forks: found most {most} and chunk {chunk}, wanted at least 1 of each.")
    found = np.asarray(entropies_T, np.float32)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise UserError(f"forks: found entropies of shape {found.shape}, wanted (T,), all finite.")
    unused = np.random.default_rng(0)  # only scheduler uniform draws
    response = schedulers.Response(found, most, chunk, eligible, unused)
    return schedulers.load("peak-entropy")(response)


def weights(
    chunks_F: Sequence[str],
    continuations_F: Sequence[Sequence[str]],
    logprobs_F: Sequence[Sequence[float]],
    metric: str = "edit",
    alpha: float = 1.0,
    weight: str = "posterior",
) -> np.ndarray:
    """The weight (F,), float64 in [0, 1], of each of a round's F chunks.

    `chunks_F`: what the student wrote. `continuations_F`: what the teacher wrote from there, the
    same number N for each, cut to as many tokens as a chunk has. `logprobs_F`: nats, of the chunk's
    own tokens under the student. `metric`: one that compares texts. `weight`: `posterior` is the
    paper's, `excess` (method/weight.py) did better with metric edit (README). Pass a whole round at
    once: the excess is over its mean.

    Raises UserError where lengths differ or a metric or weight is unknown.
    """
    counts_F = {len(some) for some in continuations_F}
    if len({len(chunks_F), len(continuations_F), len(logprobs_F)}) > 1 or len(counts_F) != 1:
        raise UserError(
            f"weights: found {len(chunks_F)} chunks, {len(continuations_F)} lists of continuations "
            f"of {sorted(counts_F)} texts and {len(logprobs_F)} lists of logprobs, wanted one of "
            "each for a chunk, with the same number of texts. Leave out forks that the teacher "
            "failed at."
        )
    texts = [name for name in similarity.METRICS if name not in similarity.OF_IDS]
    for name, known in ((metric, texts), (weight, ["posterior", "excess", "excess-posterior"])):
        if name not in known:
            raise UserError(f"weights: found {name!r}, wanted one of {', '.join(known)}.")
    (samples,) = counts_F
    pairs = [
        similarity.Pair(chunk, False, text, False)
        for chunk, some in zip(chunks_F, continuations_F, strict=True)
        for text in some
    ]
    scores = np.array(similarity.similarities(pairs, metric), np.float64)
    k_F = scores.reshape(len(chunks_F), samples).sum(1)
    bar_F = np.array([confidence(own) for own in logprobs_F])
    return weighed(weight, k_F / samples, by_scores(samples, k_F, bar_F, alpha).hat)
