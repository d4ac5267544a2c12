"""token-edit: 1 - Levenshtein distance / longer length, of the student's token ids.

Both empty 1, one empty 0. It sees every script that the student's tokenizer can write.
"""

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from pipeline.method.similarity import Pair


def measure(pairs: Sequence[Pair]) -> list[float]:
    return [float(Levenshtein.normalized_similarity(p.ids, p.other_ids)) for p in pairs]
