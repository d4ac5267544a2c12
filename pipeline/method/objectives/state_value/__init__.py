"""state-value: how much each stretch of a response changed the teacher's chance to end right.

The value V of a fork's state is the share of the teacher's continuations from there, run to the
end, that the checker finds right. A stretch between two forks has the difference as credit:

    beginning to the first fork   V_1 minus what other responses to the prompt are worth there
    fork i to fork i + 1          V_{i+1} - V_i
    last fork to the end          reward - V_last
    sum over tokens of -credit * log pi_theta(y) + beta * sum over tokens without credit of
    KL(pi_ref || pi_theta)

What others are worth at the beginning is leave-one-out: the mean, over the prompt's other
responses, of the value at their first fork, or of their reward where they have none. A response
without another one has no credit before its first fork. Otherwise the changes of a response add up
to its reward minus that mean.

source  progress under a prover policy: Setlur et al. 2024 (arXiv 2410.08146), abstract. Ours: the
        prover is the text-only teacher itself, asked at the method's forks and with no model of it;
        stretches end at forks, not at steps of a solution; the leave-one-out beginning.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config.method import Anchored, Corrected
from pipeline.core.errors import UserError, refuse
from pipeline.method import drift
from pipeline.method.objectives import (
    Evidence,
    Example,
    Objective,
    Parts,
    Sequence,
    Slice,
    Terms,
)
from pipeline.method.objectives.state_value.credits import beginnings, credits_of
from pipeline.method.objectives.weighted import anchor, nll

if TYPE_CHECKING:
    import pyarrow as pa


class Settings(Anchored, Corrected):
    """It has no key of its own."""


OBJECTIVE = Objective(
    ("rollouts", "targets"), Settings, reward=True, zero_weights="equal-values", checked=True
)


def check(where: str, arm: Any) -> None:
    name = arm.train.objective
    for key, found, wanted in (
        ("score.source", arm.score.source, "outcome"),
        ("prior.source", arm.prior.source, "scores"),
    ):
        if found != wanted:
            why = "Values are shares of right endings, not similarities or a control's scores."
            refuse(f"{where}{key}", found, f"{wanted} with train.objective {name}", why)
    why = "Weights below 0 push a token ever lower"
    drift.check(where, arm, f"objective {name}", why)


def parts(evidence: Evidence, own: Settings) -> Parts:
    """Examples; what other responses are worth is of all of the round."""
    first: dict[str, float] = {}
    names = ["rollout_id", "position", "k_sem", "n"]
    for row in evidence.columns("targets", names).to_pylist():
        first.setdefault(row["rollout_id"], row["k_sem"] / row["n"])
    rollouts = evidence.columns("rollouts", ["rollout_id", "prompt_id", "reward"])
    if rollouts["reward"].null_count:
        raise UserError("state-value: rollouts without a reward. Use a task that has a checker.")
    begun = beginnings(rollouts.to_pylist(), first)
    for block, targets in evidence.beside("targets"):
        yield examples(block, targets, begun), 0


def examples(rollouts: "pa.Table", targets: "pa.Table", begun: dict[str, float]) -> list[Example]:
    """One example per rollout, in their order; the weight of a token is its stretch's credit."""
    states: dict[str, list[tuple[int, float]]] = {}
    for row in targets.select(["rollout_id", "position", "k_sem", "n"]).to_pylist():
        value = row["k_sem"] / row["n"]
        states.setdefault(row["rollout_id"], []).append((row["position"], value))
    return [
        _example(row, states.get(row["rollout_id"], []), begun.get(row["rollout_id"]))
        for row in rollouts.to_pylist()
    ]


def _example(
    row: dict[str, Any], states: list[tuple[int, float]], beginning: float | None
) -> Example:
    credit_T = credits_of(len(row["token_ids"]), states, float(row["reward"]), beginning)
    signal_T, weight_T = np.ones(len(credit_T), bool), credit_T.astype(np.float32)
    old_logp_T = np.asarray(row["logprobs"], np.float32)
    ids = (row["prompt_token_ids"], row["token_ids"])
    return Example([Sequence(*ids, signal_T, weight_T, weight_T == 0, old_logp_T)])


def terms(piece: Slice, own: Settings) -> Terms:
    return Terms(nll(piece, own.corrects), anchor(piece))
