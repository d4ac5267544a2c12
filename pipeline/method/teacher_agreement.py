"""How much a teacher agrees with itself at each fork: the baseline teacher-agreement.

Of two chunks with one weight, the one where the teacher itself is unsure says more: there, few of
its own answers are alike. The baseline is the mean similarity of the N (N - 1) / 2 pairs of its
answers, by the metric that also scored the student's chunk, and is taken off the weight.

An extension; not in arXiv 2606.01476.
"""

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from tqdm import tqdm

from pipeline.core.errors import UserError
from pipeline.method.similarity import OF_IDS, paired, similarities

Place = tuple[str, int]  # rollout_id, position


def agreement(
    targets: pa.Table,
    answers: Iterable[pa.Table],
    samples: int,
    metric: str,
    tokenizer: Tokenizer | None = None,
) -> np.ndarray:
    """Mean pairwise similarity (F,), float64, in the order of `targets`.

    A metric of token ids needs the student's `tokenizer`. `answers` may come in pieces and in any
    order. Raises UserError unless each fork of `targets` has its N answers and no other fork has
    any.
    """
    ids, positions = targets["rollout_id"].to_pylist(), targets["position"].to_pylist()
    places = {place: i for i, place in enumerate(zip(ids, positions, strict=True))}
    found_F = np.full(len(places), np.nan)
    waiting: dict[Place, dict[int, Any]] = {}
    columns = ["rollout_id", "position", "sample", "text", "ended"]
    columns += ["token_ids"] * (metric in OF_IDS)
    for table in tqdm(answers, desc="agreement", disable=None):
        whole = _complete(table.select(columns), waiting, samples)
        pairs = [
            paired(one, other) for rows in whole.values() for one, other in combinations(rows, 2)
        ]
        values = similarities(pairs, metric, tokenizer)
        means = np.reshape(values, (len(whole), -1)).mean(1) if whole else []
        for place, mean in zip(whole, means, strict=True):
            if place not in places or not np.isnan(found_F[places[place]]):
                raise UserError(f"answers: {place} is no fork, or has too many. Rerun teach.")
            found_F[places[place]] = mean
    if waiting or np.isnan(found_F).any():
        raise UserError(
            f"answers: {int(np.isnan(found_F).sum())} forks lack some of their samples 0 to "
            f"{samples - 1}. Rerun teach."
        )
    return found_F


def _complete(
    table: pa.Table, waiting: dict[Place, dict[int, Any]], samples: int
) -> dict[Place, list[Any]]:
    """The forks whose last answer is in `table`, with their N answers; others are put by."""
    whole = {}
    for row in table.to_pylist():
        place = (row["rollout_id"], row["position"])
        own = waiting.setdefault(place, {})
        if row["sample"] in own or place in whole:
            raise UserError(f"answers: {place} has sample {row['sample']} twice. Rerun teach.")
        own[row["sample"]] = row
        if set(own) == set(range(samples)):
            whole[place] = [own[sample] for sample in range(samples)]
            del waiting[place]
    return whole
