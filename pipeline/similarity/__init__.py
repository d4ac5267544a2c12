"""How close a teacher's continuation is to what the student wrote: phi(a, b) in [0, 1]."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, assert_never

from pipeline.params import Metric


class Pair(NamedTuple):
    """Two continuations of one prefix; texts without special tokens."""

    text: str
    ended: bool
    other: str
    other_ended: bool


Measure = Callable[[Sequence[Pair]], list[float]]


def similarities(pairs: Sequence[Pair], metric: Metric) -> list[float]:
    """phi of each pair. Texts are left-stripped first, so that a score does not depend on how a
    prefix had to be sent; equal pairs are computed once."""
    clean = [
        Pair(pair.text.lstrip(), pair.ended, pair.other.lstrip(), pair.other_ended)
        for pair in pairs
    ]
    unique = list(dict.fromkeys(clean))
    found = dict(zip(unique, _measure(metric)(unique), strict=True))
    return [found[pair] for pair in clean]


def _measure(metric: Metric) -> Measure:
    match metric:
        case "exact":
            from pipeline.similarity.exact import exact

            return exact
        case "edit":
            from pipeline.similarity.edit import edit

            return edit
        case "prefix":
            from pipeline.similarity.prefix import prefix

            return prefix
        case "rouge1":
            from pipeline.similarity.rouge import rouge1

            return rouge1
        case "embedding":
            from pipeline.similarity.embedding import embedding

            return embedding
        case _:
            assert_never(metric)
