"""omniopd: chunk log-likelihood weighted by the posterior, KL anchor on everything else.

    sum over chunks of -pi_hat * sum_{i in chunk} log pi_theta(y_i)
    + beta * sum_{i outside all chunks} KL(pi_ref || pi_theta)_i

Source: arXiv 2606.01476, algorithm lines 20 to 23 (both terms, the sign, the KL's direction).
"""

import numpy as np
import pyarrow as pa

from pipeline.errors import UserError
from pipeline.objectives import Example, Sequence, Slice, Terms
from pipeline.objectives.weighted import anchor, nll


def examples(rollouts: pa.Table, targets: pa.Table) -> list[Example]:
    """One example per rollout, in the rollouts' order. Raises UserError if they do not match."""
    chunks: dict[str, list[tuple[int, int, float]]] = {}
    for row in targets.select(["rollout_id", "position", "length", "pi_hat"]).to_pylist():
        chunks.setdefault(row["rollout_id"], []).append(
            (row["position"], row["length"], row["pi_hat"])
        )
    found = []
    for row in rollouts.to_pylist():
        total = len(row["token_ids"])
        signal_T, weight_T = np.zeros(total, bool), np.zeros(total, np.float32)
        for position, length, pi_hat in chunks.pop(row["rollout_id"], []):
            chunk = slice(position, position + length)
            if position + length > total or signal_T[chunk].any():
                raise UserError(
                    f"targets: the chunk at {position} of {row['rollout_id']} overlaps another or "
                    f"leaves the response of {total} tokens. Rerun forks and what follows it."
                )
            signal_T[chunk], weight_T[chunk] = True, pi_hat
        found.append(
            Example(
                [
                    Sequence(
                        row["prompt_token_ids"],
                        row["token_ids"],
                        signal_T,
                        weight_T,
                        ~signal_T,
                        np.asarray(row["logprobs"], np.float32),
                    )
                ]
            )
        )
    if chunks:
        raise UserError(
            f"targets: {len(chunks)} responses are not among the rollouts, the first "
            f"{next(iter(chunks))}. Train on the rollouts that the forks were found in."
        )
    return found


def terms(piece: Slice, correct: bool) -> Terms:
    return Terms(nll(piece, correct), anchor(piece))
