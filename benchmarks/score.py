"""Scoring pairs/s: the edit similarity, equal pairs computed once.

score   peer: the bare metric, called for each pair. Its growth: benchmarks/stages.py.
"""

from pathlib import Path

import numpy as np

from benchmarks.measure import Row, in_turn

PAIRS, TEXTS, LENGTH = 50_000, 200, 6


def rows(scratch: Path) -> list[Row]:
    from pipeline.method.similarity import Pair, similarities
    from pipeline.method.similarity.edit import measure as edit

    draw = np.random.default_rng(0)
    letters = np.array(list("0123456789+=,"))
    texts = ["".join(draw.choice(letters, LENGTH)) for _ in range(TEXTS)]
    drawn = draw.integers(0, TEXTS, (PAIRS, 2))
    pairs = [Pair(*(texts[i], True, texts[j], True)) for i, j in drawn]
    return [
        in_turn(
            "score", "pairs/s", "the bare metric, pair by pair", PAIRS,
            lambda: similarities(pairs, "edit"), lambda: [edit([pair])[0] for pair in pairs],
        )
    ]  # fmt: skip
