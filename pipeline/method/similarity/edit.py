"""edit: 1 - Levenshtein distance / longer length, characters; both empty 1, one empty 0."""

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from pipeline.method.similarity import Pair


def measure(pairs: Sequence[Pair]) -> list[float]:
    return [float(Levenshtein.normalized_similarity(p.text, p.other)) for p in pairs]
