"""prefix: length of the common prefix / longer length, characters; both empty 1."""

from collections.abc import Sequence

from rapidfuzz.distance import Prefix

from pipeline.method.similarity import Pair


def measure(pairs: Sequence[Pair]) -> list[float]:
    return [float(Prefix.normalized_similarity(p.text, p.other)) for p in pairs]
