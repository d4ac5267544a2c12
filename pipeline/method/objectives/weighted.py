"""Pieces that several objectives are made of: whole responses, weighted likelihood, the anchor."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.errors import UserError
from pipeline.method.objectives import RATIO_CAP, Example, Sequence, Slice

if TYPE_CHECKING:
    import pyarrow as pa
    import torch


def whole_response(row: dict[str, Any], weight: float) -> Example:
    """A rollout of which every token is signal, with one weight."""
    total = len(row["token_ids"])
    return Example(
        [
            Sequence(
                row["prompt_token_ids"],
                row["token_ids"],
                np.ones(total, bool),
                np.full(total, weight, np.float32),
                np.zeros(total, bool),
                np.asarray(row["logprobs"], np.float32),
            )
        ]
    )


def chunked(
    rollouts: "pa.Table", places: list[tuple[str, int, int, float]], table: str
) -> list[Example]:
    """Rollouts whose chunks (rollout_id, position, length, weight) are signal, the rest anchor.

    Raises UserError if `table`, which the chunks are from, does not fit the rollouts.
    """
    chunks: dict[str, list[tuple[int, int, float]]] = {}
    for name, position, length, weight in places:
        chunks.setdefault(name, []).append((position, length, weight))
    found = []
    for row in rollouts.to_pylist():
        total = len(row["token_ids"])
        signal_T, weight_T = np.zeros(total, bool), np.zeros(total, np.float32)
        for position, length, weight in chunks.pop(row["rollout_id"], []):
            chunk_T = slice(position, position + length)
            if position + length > total or signal_T[chunk_T].any():
                raise UserError(
                    f"{table}: the chunk at {position} of {row['rollout_id']} overlaps another or "
                    f"leaves the response of {total} tokens. Rerun forks and what follows it."
                )
            signal_T[chunk_T], weight_T[chunk_T] = True, weight
        old_logp_T = np.asarray(row["logprobs"], np.float32)
        ids = (row["prompt_token_ids"], row["token_ids"])
        found.append(Example([Sequence(*ids, signal_T, weight_T, ~signal_T, old_logp_T)]))
    if chunks:
        raise UserError(
            f"{table}: {len(chunks)} responses are not among the rollouts, the first "
            f"{next(iter(chunks))}. Train on the rollouts that the forks were found in."
        )
    return found


def constant(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Whether all of a value's group are equal to it, for each. Groups are numbers from 0.

    What is left of such a group when its mean is taken off is rounding, and has to be 0.
    """
    low = np.full(group.max(initial=-1) + 1, np.inf)
    high = -low
    np.minimum.at(low, group, values)
    np.maximum.at(high, group, values)
    return np.asarray((low == high)[group])


def everywhere(examples: list[Example]) -> list[Example]:
    """The same examples with the anchor on every response token: arm anchor-all.

    What the teacher wrote, as imitate-forks trains on it, is no response and keeps none.
    """
    return [Example([_anchored(s) for s in example.sequences]) for example in examples]


def _anchored(sequence: Sequence) -> Sequence:
    if sequence.old_logp_T is None:  # not the student's own
        return sequence
    return sequence._replace(anchor_T=np.ones_like(sequence.anchor_T))


def nll(piece: Slice, correct: bool) -> "torch.Tensor":
    """-w * log pi_theta(y) on signal tokens, (T,). w is a constant.

    With `correct`, a token's gradient is multiplied by min(pi_theta/pi_rollout, 2), no gradient
    through the ratio.
    """
    logp_T = piece.logp_T()
    weight_T = piece.weight_T * piece.signal_T
    if correct:
        ratio_T = (logp_T.detach() - piece.old_logp_T).exp().clamp(max=RATIO_CAP)
        weight_T = weight_T * ratio_T
    return -weight_T * logp_T


def anchor(piece: Slice) -> "torch.Tensor":
    """KL(reference || student) over the full vocabulary on anchor tokens, (T,), nats."""
    if piece.reference_TV is None:
        return piece.weight_T.new_zeros(piece.weight_T.shape)
    from pipeline.method.divergences import forward_kl  # loads torch, which plan does without

    return forward_kl(piece.student_TV, piece.reference_TV) * piece.anchor_T


def teacher(piece: Slice) -> "torch.Tensor":
    """The teacher's log-probabilities (T, V). Raises UserError if none was given."""
    if piece.teacher_TV is None:
        raise UserError("train: a white-box objective without a teacher. Run `omniopd plan`.")
    return piece.teacher_TV


def reverse_kl(piece: Slice) -> "torch.Tensor":
    """KL(student || teacher) over the full vocabulary, (T,), nats."""
    kl_T = (piece.student_TV.exp() * (piece.student_TV - teacher(piece))).sum(-1)
    return kl_T * differs(piece)


def differs(piece: Slice) -> "torch.Tensor":
    """Where the teacher's distribution is not the student's own, (T,), bool.

    Elsewhere a divergence has no gradient; autograd's would be rounding.
    """
    return (piece.student_TV.detach() != teacher(piece)).any(-1)
