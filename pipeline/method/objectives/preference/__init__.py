"""preference: the teacher's answer over the student's own chunk at each fork, by DPO.

    sum over forks of (1/n) * sum over the first n answers of -log sigmoid(pair_beta * margin)
    margin = log(pi_theta / pi_ref)(answer) - log(pi_theta / pi_ref)(chunk)
    + beta * sum_{i outside all chunks} KL(pi_ref || pi_theta)_i

pi_ref is the round-0 checkpoint; both texts follow the student's own prefix, up to C tokens each.
A pair of equal tokens has margin 0 whatever the student does and is left out; an empty answer that
did not end has no token and is left out too.

source  DPO: Rafailov et al. 2023 (arXiv 2305.18290). Pairs at forks are ours: a text-only teacher
        is used where omniopd asks it, with the answers that omniopd buys. The anchor is the
        method's. Whole responses in place of chunks: soda.
"""

from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.params import Positive
from pipeline.method.objectives import (
    Evidence,
    Example,
    Objective,
    Parts,
    Slice,
    Terms,
    imitate_forks,
)
from pipeline.method.objectives.preference.pairs import paired, valued
from pipeline.method.objectives.weighted import anchor

if TYPE_CHECKING:
    import pyarrow as pa


class Settings(imitate_forks.Settings):
    pair_beta: Positive = 0.1  # of a pair's margin, which is in nats


def relative(example: Example, ratios: list[np.ndarray], own: Settings) -> Example:
    return paired(example, ratios, own.pair_beta)


OBJECTIVE = Objective(
    ("rollouts", "forks", "answers"),
    Settings,
    imitated="answers",
    checked=True,
    group="train-imitate-forks",
    relative=relative,
)
check = imitate_forks.check


def parts(evidence: Evidence, own: Settings) -> Parts:
    for rollouts, forks, answers in evidence.beside("forks", "answers"):
        yield examples(rollouts, forks, answers, own.answers, evidence.end), 0


def examples(
    rollouts: "pa.Table", forks: "pa.Table", answers: "pa.Table", first: int, end: int
) -> list[Example]:
    """One example per rollout: the response with its chunks, then the answers to each of them.

    Until a step begins, the weight of a token is the number of its fork in the response, from 1.
    """
    places: dict[str, list[tuple[int, int]]] = {}
    for row in forks.select(["rollout_id", "position", "length"]).to_pylist():
        places.setdefault(row["rollout_id"], []).append((row["position"], row["length"]))
    imitated = imitate_forks.examples(rollouts, forks, answers, first, end)
    return [
        _contrasted(example, places.get(name, []))
        for name, example in zip(rollouts["rollout_id"].to_pylist(), imitated, strict=True)
    ]


def _contrasted(example: Example, places: list[tuple[int, int]]) -> Example:
    response, *answers = example.sequences
    before = len(response.context_ids)
    signal_T, number_T = response.signal_T.copy(), response.weight_T.copy()
    kept = []
    for number, (position, length) in enumerate(places, 1):
        chunk_T = slice(position, position + length)
        others = [
            answer._replace(weight_T=np.full(len(answer.token_ids), number, np.float32))
            for answer in answers
            if len(answer.context_ids) == before + position
            and list(answer.token_ids) != list(response.token_ids[chunk_T])
        ]
        if others:
            signal_T[chunk_T], number_T[chunk_T] = True, number
        kept += others
    return Example([response._replace(signal_T=signal_T, weight_T=number_T), *kept])


def terms(piece: Slice, own: Settings) -> Terms:
    """No correction: each step's weights are of the student as it is then."""
    return Terms(valued(piece), anchor(piece))
