"""grpo: clipped policy gradient with group-relative advantages, no reference term.

    A_i = (r_i - mean) / (sd + 1e-4) over the responses to one prompt; equal rewards give 0
    -min(ratio * A, clip(ratio, 0.8, 1.2) * A), ratio = pi_theta / pi_rollout

Source: Shao et al. 2024 (arXiv 2402.03300); sd with n - 1 and 1e-4 as in TRL.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config.params import Params
from pipeline.core.errors import UserError, refuse
from pipeline.method.objectives import Evidence, Example, Objective, Parts, Slice, Terms
from pipeline.method.objectives.weighted import constant, whole_response

if TYPE_CHECKING:
    import pyarrow as pa

CLIP = 0.2
EPSILON = 1e-4
READ = ["prompt_id", "reward"]  # of all rollouts of a round, for the advantages


def check(where: str, arm: Any) -> None:
    if arm.rollout.samples_per_prompt < 2:
        key = f"{where}rollout.samples_per_prompt"
        refuse(key, 1, "at least 2 for grpo", "A group of 1 is equal.")


OBJECTIVE = Objective(
    ("rollouts",),
    reward=True,
    sampled=True,
    zero_weights="equal-rewards",
    checked=True,
    group="train-grpo",
)


def parts(evidence: Evidence, own: Params) -> Parts:
    """Examples, whose advantages are relative to all responses of a prompt."""
    advantage_B = weights(evidence.columns("rollouts", ["rollout_id", *READ]))
    return ((weighted(*block), 0) for block in evidence.valued(advantage_B))


def advantages(prompt_ids: list[str], rewards: np.ndarray) -> np.ndarray:
    """A_i (B,), float64; groups are the rows of equal prompt_id."""
    _, group_B = np.unique(np.asarray(prompt_ids), return_inverse=True)
    size = np.bincount(group_B)
    mean_B = (np.bincount(group_B, rewards) / size)[group_B]
    squares = np.bincount(group_B, (rewards - mean_B) ** 2)
    variance_B = (squares / np.maximum(size - 1, 1))[group_B]
    advantage_B = (rewards - mean_B) / (np.sqrt(variance_B) + EPSILON)
    return np.where(constant(rewards, group_B), 0.0, advantage_B)  # the mean of .1s is not .1


def examples(rollouts: "pa.Table") -> list[Example]:
    """One example per rollout; its advantage is the weight of each token."""
    return weighted(rollouts, weights(rollouts))


def weights(rollouts: "pa.Table") -> np.ndarray:
    """Advantages (B,) of a round's rollouts, of which prompt_id and reward are read."""
    if rollouts.column("reward").null_count:
        raise UserError("grpo: rollouts without a reward. Use a task that has a checker.")
    rewards = rollouts.column("reward").to_numpy().astype(np.float64)
    return advantages(rollouts.column("prompt_id").to_pylist(), rewards)


def weighted(rollouts: "pa.Table", advantage_B: np.ndarray) -> list[Example]:
    """One example for each of some rollouts."""
    return [
        whole_response(row, advantage)
        for row, advantage in zip(rollouts.to_pylist(), advantage_B.tolist(), strict=True)
    ]


def terms(piece: Slice, own: Params) -> Terms:
    import torch

    ratio_T = (piece.logp_T() - piece.old_logp_T).exp()
    clipped_T = ratio_T.clamp(1 - CLIP, 1 + CLIP)
    gain_T = torch.minimum(ratio_T * piece.weight_T, clipped_T * piece.weight_T)
    return Terms(-gain_T * piece.signal_T, gain_T * 0)
