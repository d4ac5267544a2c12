"""imitate-forks: cross-entropy on bought continuations of each fork, the method's own anchor.

    sum over forks of (1/n) * sum over the first n continuations of -log pi_theta(continuation)
    + beta * sum_{i outside all chunks} KL(pi_ref || pi_theta)_i

What the same answers are worth if they are imitated instead of compared. An empty continuation
that did not end has no token and adds nothing.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config.method import Anchored
from pipeline.config.params import Count
from pipeline.core.errors import refuse
from pipeline.method.adaptive import least
from pipeline.method.objectives import (
    Evidence,
    Example,
    Objective,
    Parts,
    Sequence,
    Slice,
    Terms,
)
from pipeline.method.objectives.weighted import anchor, nll

if TYPE_CHECKING:
    import pyarrow as pa


class Settings(Anchored):
    answers: Count = 1  # continuations of each fork that are imitated


def check(where: str, arm: Any) -> None:
    if arm.train.answers > (bought := least(arm.teach.samples)):
        refuse(
            f"{where}train.answers",
            arm.train.answers,
            f"at most teach.samples = {bought}",
            "Imitate no more continuations than are bought.",
        )


OBJECTIVE = Objective(
    ("rollouts", "forks", "answers"),
    Settings,
    imitated="answers",
    checked=True,
    group="train-imitate-forks",
)


def parts(evidence: Evidence, own: Settings) -> Parts:
    for rollouts, forks, answers in evidence.beside("forks", "answers"):
        yield examples(rollouts, forks, answers, own.answers, evidence.end), 0


def examples(
    rollouts: "pa.Table", forks: "pa.Table", answers: "pa.Table", first: int, end: int
) -> list[Example]:
    """One example per rollout: the response for the anchor, then the continuations.

    `end` is the student's own end of a turn.
    """
    chunks: dict[str, list[tuple[int, int]]] = {}
    for row in forks.select(["rollout_id", "position", "length"]).to_pylist():
        chunks.setdefault(row["rollout_id"], []).append((row["position"], row["length"]))
    bought: dict[tuple[str, int], list[list[int]]] = {}
    for row in answers.to_pylist():
        if row["sample"] < first:
            ids = [*row["token_ids"], *([end] if row["ended"] else [])]
            bought.setdefault((row["rollout_id"], row["position"]), []).append(ids)
    found = []
    for row in rollouts.to_pylist():
        here = chunks.get(row["rollout_id"], [])
        sequences = [_response(row, here)]
        for position, _ in here:
            context = [*row["prompt_token_ids"], *row["token_ids"][:position]]
            sequences += [
                _continuation(context, ids, first)
                for ids in bought[row["rollout_id"], position]
                if ids
            ]
        found.append(Example(sequences))
    return found


def _response(row: dict[str, "list[int]"], chunks: list[tuple[int, int]]) -> Sequence:
    total = len(row["token_ids"])
    anchor_T = np.ones(total, bool)
    for position, length in chunks:
        anchor_T[position : position + length] = False
    return Sequence(
        row["prompt_token_ids"],
        row["token_ids"],
        np.zeros(total, bool),
        np.zeros(total, np.float32),
        anchor_T,
        np.asarray(row["logprobs"], np.float32),
    )


def _continuation(context: list[int], ids: list[int], first: int) -> Sequence:
    total = len(ids)
    return Sequence(
        context,
        ids,
        np.ones(total, bool),
        np.full(total, 1 / first, np.float32),
        np.zeros(total, bool),
        None,
    )


def terms(piece: Slice, own: Settings) -> Terms:
    return Terms(nll(piece, correct=False), anchor(piece))
