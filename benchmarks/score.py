"""Scoring pairs/s: the edit similarity, equal pairs computed once; and its growth with the pairs.

score                 peer: every pair alone
score_10x, score_100x seconds a pair when all pairs differ; peer: 1x, 2,000 pairs
"""

from pathlib import Path

import numpy as np

from benchmarks.measure import Row, in_turn, row, seconds

PAIRS, TEXTS, LENGTH, ONCE = 50_000, 200, 6, 2_000
REPEATS = 5


def rows(scratch: Path) -> list[Row]:
    from pipeline.similarity import Pair, similarities
    from pipeline.similarity.edit import measure as edit

    draw = np.random.default_rng(0)
    letters = np.array(list("0123456789+=,"))
    texts = ["".join(draw.choice(letters, LENGTH)) for _ in range(TEXTS)]
    drawn = draw.integers(0, TEXTS, (PAIRS, 2))
    pairs = [Pair(*(texts[i], True, texts[j], True)) for i, j in drawn]
    found = [
        in_turn(
            "score", "pairs/s", "every pair alone", PAIRS,
            lambda: similarities(pairs, "edit"), lambda: [edit([pair])[0] for pair in pairs],
        )
    ]  # fmt: skip
    many = ["".join(row_) for row_ in draw.choice(letters, (2 * 100 * ONCE, 50))]
    each: dict[int, list[float]] = {1: [], 10: [], 100: []}
    similarities(pairs, "edit")
    for _ in range(REPEATS):
        for scale, times in each.items():
            texts_ = many[: 2 * scale * ONCE]
            some = [Pair(a, True, b, True) for a, b in zip(texts_[::2], texts_[1::2], strict=True)]
            times.append(seconds(lambda: similarities(some, "edit")) / len(some))  # noqa: B023
    told = ("s a pair", "lower", f"1x: {ONCE} pairs")
    return found + [row(f"score_{n}x", *told, each[n], each[1]) for n in (10, 100)]
