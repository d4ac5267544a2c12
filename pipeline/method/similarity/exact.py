"""exact: both texts and both ends equal."""

from collections.abc import Sequence

from pipeline.method.similarity import Pair


def measure(pairs: Sequence[Pair]) -> list[float]:
    return [float(p.text == p.other and p.ended == p.other_ended) for p in pairs]
