"""soda: whole solutions of the teacher over the untrained student's own responses, by DPO.

    -log sigmoid(pair_beta * (log(pi_theta / pi_ref)(solution) - log(pi_theta / pi_ref)(response)))

pi_ref is the round-0 checkpoint, which also wrote the responses: a static snapshot of the student.
The i-th solution of a prompt is paired with the i-th response to it, as far as there are both; a
solution that the length limit cut is counted and left out with its pair, and so is a pair of equal
tokens, without being counted: its margin is 0 whatever the student does.

source  SODA (arXiv 2604.03873), title and abstract; its body could not be read. From these: pairs
        of the teacher's response and of a one-time snapshot of the student's, and DPO. Ours where
        they are silent: the snapshot answers each round's own prompts, pi_ref is the untrained
        student, pair_beta, several pairs a prompt, no warm-up on the teacher's solutions.
"""

from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.params import Params, Positive
from pipeline.method.objectives import (
    Evidence,
    Example,
    Objective,
    Parts,
    Sequence,
    Slice,
    Terms,
)
from pipeline.method.objectives.preference.pairs import paired, valued
from pipeline.method.objectives.weighted import whole_response

if TYPE_CHECKING:
    import pyarrow as pa


class Settings(Params):
    pair_beta: Positive = 0.1  # of a pair's margin, which is in nats


def relative(example: Example, ratios: list[np.ndarray], own: Settings) -> Example:
    return paired(example, ratios, own.pair_beta)


OBJECTIVE = Objective(
    ("prompts", "solutions", "snapshot"), Settings, group="train-soda", relative=relative
)


def parts(evidence: Evidence, own: Settings) -> Parts:
    ids = evidence.prompt_ids()
    for rollouts, answers in evidence.by_prompt("answers"):
        yield examples(rollouts, answers, ids, evidence.end)


def examples(
    rollouts: "pa.Table", answers: "pa.Table", prompt_ids: dict[str, list[int]], end: int
) -> tuple[list[Example], int]:
    """An example of each pair, of some rollouts with the answers to their prompts."""
    solutions = {(row["rollout_id"], row["sample"]): row for row in answers.to_pylist()}
    found, cut = [], 0
    for row in rollouts.to_pylist():
        solution = solutions.get((row["prompt_id"], row["sample"]))
        if solution is None:
            continue
        if not solution["ended"]:
            cut += 1
            continue
        written = [*solution["token_ids"], end]
        if written != list(row["token_ids"]):
            (response,) = whole_response(row, 1.0).sequences
            found.append(Example([response, _solution(prompt_ids[row["prompt_id"]], written)]))
    return found, cut


def _solution(context: list[int], ids: list[int]) -> Sequence:
    ones = np.ones(len(ids), np.float32)
    return Sequence(context, ids, ones.astype(bool), ones, np.zeros(len(ids), bool), None)


def terms(piece: Slice, own: Settings) -> Terms:
    signal_T = valued(piece)
    return Terms(signal_T, signal_T * 0)
