"""Scores of a round: chunks compared with answers, whether they can teach, a control's order.

Axes: F forks, N teacher samples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from pipeline.config.method import Adaptive
from pipeline.core.errors import UserError
from pipeline.data import schemas
from pipeline.data.text import chunk
from pipeline.method import adaptive, similarity

PROBES = 1000  # forks on which agreement between teacher answers is measured
MOST_ZERO = 0.9  # share of forks with k_sem = 0 above which exactness says nothing
LEAST_CONTRAST = 0.03  # agreement at a fork above that between problems
IDS = "token_ids"  # column of answers, and here of forks, for a metric of token ids
Answers = dict[tuple[str, int], list[dict[str, Any]]]  # of each fork, by sample


def with_chunk_ids(forks: pa.Table, rollouts: pa.Table, tokenizer: Tokenizer) -> pa.Table:
    """The forks of some rollouts, with a column of their chunks' ids."""
    written = {row["rollout_id"]: row for row in rollouts.to_pylist()}
    places = ((written[fork["rollout_id"]], fork) for fork in forks.to_pylist())
    ids = [chunk(tokenizer, *place) for place in places]
    return forks.append_column(IDS, pa.array(ids, schemas.ANSWERS.field(IDS).type))


def by_fork(forks: pa.Table, answers: pa.Table, samples: int | Adaptive) -> Answers:
    """Answers of each fork by sample. Raises UserError unless every fork has exactly N, or as many
    as the rule wants where N is adaptive."""
    by_place: Answers = {place: [] for place in zip(*columns(forks), strict=True)}
    for row in answers.to_pylist():
        place = (row["rollout_id"], row["position"])
        if place not in by_place:
            raise UserError(
                f"answers: {place} is no fork, wanted those of these forks. Rerun teach."
            )
        by_place[place].append(row)
    for place, rows in by_place.items():
        rows.sort(key=lambda row: row["sample"])
        wanted = _wanted(rows, samples)
        if [row["sample"] for row in rows] != list(range(wanted)):
            raise UserError(
                f"answers: fork {place} has {len(rows)} continuations, wanted samples 0 to "
                f"{wanted - 1} once each. Rerun teach."
            )
    return by_place


def _wanted(rows: list[dict[str, Any]], samples: int | Adaptive) -> int:
    """How many of these answers there should be: the fewest after which none is wanted."""
    if isinstance(samples, int):
        return samples
    said = [(row["text"].lstrip(), row["ended"]) for row in rows]
    enough = (n for n in range(len(said) + 1) if adaptive.wanted(samples, said[:n]) == n)
    return next(enough, adaptive.wanted(samples, said))


def padded(values: Sequence[Sequence[float] | np.ndarray], samples: int) -> np.ndarray:
    """Values (F, N) of forks with up to N answers each, NaN where one has fewer."""
    found = np.full((len(values), samples), np.nan)
    for row, own in zip(found, values, strict=True):
        row[: len(own)] = own
    return found


def similarities(
    forks: pa.Table,
    answers: Answers,
    samples: int,
    metric: str,
    tokenizer: Tokenizer | None = None,
) -> np.ndarray:
    """phi (F, N) of each fork's answers with its chunk, float64 in [0, 1]; NaN beyond them."""
    pairs = [
        similarity.paired(fork | {"text": fork["chunk_text"]}, answer)
        for fork in forks.to_pylist()
        for answer in answers[fork["rollout_id"], fork["position"]]
    ]
    values = np.array(similarity.similarities(pairs, metric, tokenizer), np.float64)
    counts_F = [len(answers[place]) for place in zip(*columns(forks), strict=True)]
    return padded(np.split(values, np.cumsum(counts_F)[:-1]) if counts_F else [], samples)


def probes(count: int) -> list[int]:
    """Indices of the forks, evenly spread, on which agreement is measured."""
    return [int(i) for i in np.linspace(0, count - 1, min(count, PROBES), dtype=int)]


def contrast(
    answers: Answers,
    prompts: dict[str, str],
    samples: int,
    metric: str,
    tokenizer: Tokenizer | None = None,
) -> tuple[float, float] | None:
    """Mean similarity of two teacher answers at one fork, and at forks of different problems.

    `prompts`: prompt_id of each response. None where there is nothing to compare: one sample, or
    one problem.
    """
    places = list(answers)
    chosen = [places[i] for i in probes(len(places))]
    half = len(chosen) // 2
    shifted = chosen[half:] + chosen[:half]
    others = [
        (a, b) for a, b in zip(chosen, shifted, strict=True) if prompts[a[0]] != prompts[b[0]]
    ]
    if samples < 2 or not others:
        return None
    same = [similarity.paired(answers[place][0], answers[place][1]) for place in chosen]
    different = [similarity.paired(answers[a][0], answers[b][0]) for a, b in others]
    values = np.array(similarity.similarities(same + different, metric, tokenizer))
    return float(values[: len(same)].mean()), float(values[len(same) :].mean())


def check_flat(found: np.ndarray, levels: tuple[float, float] | None, metric: str) -> None:
    """Raise UserError if the scores can teach nothing but what the student already does."""
    if not found.size:
        return
    remedy = (
        "Use another score.metric or a shorter forks.chunk_tokens, or set score.allow_flat: true "
        "to go on anyway."
    )
    zero = float((found.sum(1) == 0).mean())
    if zero > MOST_ZERO:
        raise UserError(
            f"score: k_sem is 0 in {zero:.0%} of {len(found)} forks with metric {metric}, more "
            f"than {MOST_ZERO:.0%}: nothing but self-reinforcement would be left. {remedy}"
        )
    if levels is not None and levels[0] - levels[1] < LEAST_CONTRAST:
        raise UserError(
            f"score: two teacher answers at one fork are {levels[0]:.3f} alike and answers to "
            f"different problems {levels[1]:.3f}, less than {LEAST_CONTRAST} apart with metric "
            f"{metric}. {remedy}"
        )


def shuffled(
    found: np.ndarray, group: Sequence[str] | np.ndarray, draw: np.random.Generator
) -> np.ndarray:
    """`found` (F, ...), its rows permuted within each group: a fork's N values stay together."""
    order = draw.permutation(len(found))
    _, group_F = np.unique(group, return_inverse=True)
    moved = np.empty_like(found)
    moved[np.argsort(group_F, kind="stable")] = found[
        order[np.argsort(group_F[order], kind="stable")]
    ]
    return moved


def columns(forks: pa.Table) -> tuple[list[str], list[int]]:
    """The names of the forks: the response of each, and where in it."""
    return forks["rollout_id"].to_pylist(), forks["position"].to_pylist()


def table(forks: pa.Table, values: np.ndarray, teacher: str, metric: str) -> pa.Table:
    """The rows of similarities (F, N), in the order of forks and samples; NaN has none."""
    ids, positions = columns(forks)
    here_FN, samples = ~np.isnan(values), values.shape[1]
    counts_F, count = here_FN.sum(1), int(here_FN.sum())
    sample_FN = np.tile(np.arange(samples, dtype=np.int32), (len(ids), 1))
    arrays = [
        pa.array(np.repeat(np.array(ids, dtype=object), counts_F), pa.string()),
        np.repeat(np.array(positions, np.int32), counts_F),
        sample_FN[here_FN],
        pa.repeat(teacher, count),
        pa.repeat(metric, count),
        values[here_FN],
    ]
    return pa.Table.from_arrays([pa.array(c) for c in arrays], schema=schemas.SCORES)
