"""Evidence at a fork: the student's own confidence in its chunk, and the posterior of the two."""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.core.errors import UserError


def confidence(logprobs_T: Sequence[float] | np.ndarray) -> float:
    """exp(mean log pi) over a chunk's tokens: a per-token heuristic, not its probability."""
    return float(np.exp(np.mean(np.asarray(logprobs_T, np.float64))))


def pi_bar(rollouts: pa.Table, forks: pa.Table) -> np.ndarray:
    """exp(mean log pi over the chunk's tokens) of each fork, (F,), float64."""
    logprobs = dict(
        zip(rollouts["rollout_id"].to_pylist(), rollouts["logprobs"].to_pylist(), strict=True)
    )
    found = np.empty(len(forks))
    for i, row in enumerate(forks.select(["rollout_id", "position", "length"]).to_pylist()):
        start, end = row["position"], row["position"] + row["length"]
        own = logprobs.get(row["rollout_id"], [])
        if not 0 <= start < end <= len(own or ()):
            raise UserError(
                f"forks: the chunk from {start} to {end} of {row['rollout_id']} leaves its "
                f"{len(own or ())} tokens, wanted one within them. Rerun forks on these rollouts."
            )
        wrong = [x for x in own[start:end] if x is None or not math.isfinite(x)]
        if wrong:
            raise UserError(
                f"rollouts: logprobs of {row['rollout_id']}: found {wrong[0]}, wanted finite "
                "numbers. Rerun rollout."
            )
        found[i] = confidence(own[start:end])
    return found


def posterior(
    k_F: np.ndarray, bar_F: np.ndarray, n: int | np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of Beta(k + alpha pi_bar, n - k + alpha (1 - pi_bar)), each (F,)."""
    total = n + alpha
    hat = (k_F + alpha * bar_F) / total
    hat = np.where(np.abs(hat - 1) < 1e-12, 1.0, hat)  # the rounding of a sum of ones
    # of a mean outside [0, 1], which prior refuses, there is no sd
    return hat, np.sqrt(np.maximum(hat * (1 - hat), 0.0) / (total + 1))
