"""The gradients of every objective: batches of responses, exact losses in slices.

A step's loss is (1/R) * sum over its R responses, R counted over the whole step, so that its
gradient does not depend on how the step is cut into micro-batches. Logits exist for one slice of
tokens at a time: the loss is differentiated slice by slice down to the hidden states and the head,
and the hidden states' gradient is then carried through the model once, for both terms together.
Where the norm of each term is wanted, the signal's is carried through once more and kept beside;
what is trained on is the same to the bit. With an adapter only its weights have a gradient, and
the reference is the student's own model with the adapter off.

Axes: T tokens that carry a term, H hidden size, V vocabulary.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.engines import adapters
from pipeline.engines.hf import Frozen, Policy
from pipeline.engines.kv_cache import padded
from pipeline.engines.scoring_pass import LOGITS_PER_CHUNK
from pipeline.method.objectives import Example, Sequence, Slice
from pipeline.training.optimizer_steps import Step, Sums, metrics

Grads = list[torch.Tensor | None]  # None: nothing yet


def recompute(model: Any) -> None:
    """Keep only each layer's input for the backward pass, which computes the rest again.

    Only the layers themselves count as in training: dropout inside them stays off.
    """
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def gradients(
    student: Policy, frozen: Frozen, examples: list[Example], step: Step
) -> tuple[Sums, dict[str, float | None]]:
    """Unscaled sums with the gradient of (1/R) sum signal + beta (1/R) sum anchor, and metrics.

    With token_mean each term is over its own token count instead of R. With `step.norms` the
    signal's gradient comes beside it, and the metrics have the norm of each term; else null.
    """
    sequences = [s for example in examples for s in example.sequences]
    parameters = [p for p in student.model.parameters() if p.requires_grad]
    whole: Grads = [None] * len(parameters)
    signal: Grads = [None] * len(parameters)
    sums = Sums(
        responses=sum(any(len(s.token_ids) for s in e.sequences) for e in examples),
        signal_tokens=sum(int(s.signal_T.sum()) for s in sequences),
        anchor_tokens=sum(int(s.anchor_T.sum()) for s in sequences),
    )
    scales = (
        1 / max(sums.signal_tokens if step.token_mean else sums.responses, 1),
        step.beta / max(sums.anchor_tokens if step.token_mean else sums.responses, 1),
    )
    size, batch_tokens = step.micro_batch_size, step.batch_tokens
    cut = functools.partial(micro_batches, size=size, batch_tokens=batch_tokens)
    for batch in step.group.batches(sequences, cut):
        _accumulate(student, frozen, batch, step, scales, sums, parameters, (whole, signal))
    mine = [sums.signal, sums.anchor, sums.drift, sums.own_tokens]
    sums.signal, sums.anchor, sums.drift, sums.own_tokens = step.group.all_reduce_sum(mine)
    (sums.has_signal,) = step.group.any_rank([sums.has_signal])
    sums.grads = [_or_zeros(g, p) for g, p in zip(whole, parameters, strict=True)]
    if step.apart:
        sums.signal_grads = [_or_zeros(g, p) for g, p in zip(signal, parameters, strict=True)]
    elif step.norms:  # there is no other term
        sums.signal_grads = sums.grads
    return sums, metrics(sums, scales, step)


def micro_batches(
    sequences: list[Sequence], size: int, batch_tokens: int | None
) -> Iterator[list[Sequence]]:
    """Sequences of like length together: less padding, the same sums.

    At most `size` of them, and at most `batch_tokens` with padding unless one alone is longer.
    """
    lengths = [len(s.context_ids) + len(s.token_ids) for s in sequences]
    batch: list[Sequence] = []
    for index in sorted(range(len(sequences)), key=lengths.__getitem__):
        full = batch_tokens is not None and (len(batch) + 1) * lengths[index] > batch_tokens
        if batch and (full or len(batch) == size):
            yield batch
            batch = []
        batch.append(sequences[index])
    if batch:
        yield batch


def _accumulate(
    student: Policy,
    frozen: Frozen,
    batch: list[Sequence],
    step: Step,
    scales: tuple[float, float],
    sums: Sums,
    parameters: list[torch.nn.Parameter],
    grads: tuple[Grads, Grads],
) -> None:
    with torch.no_grad():
        frozen_TH = [frozen_hidden(p, student, batch, step.bfloat16) for p in frozen]
    hidden_TH, piece = hidden(student, batch, step.bfloat16)
    with step.group.heads(student, frozen) as head:
        to_hidden, to_head = _through_head(
            student, frozen, hidden_TH, frozen_TH, piece, step, scales, sums, head
        )
    # all processes that share the step carry the same gradients through the model
    some = step.group.any_rank([bool(grad_TH.any()) for grad_TH in to_hidden])
    active = [which for which, found in enumerate(some) if found]
    head = student.model.get_output_embeddings().weight
    for which in active:
        weight_grads = step.group.backward(
            hidden_TH, parameters, to_hidden[which], which != active[-1]
        )
        for i, (parameter, grad) in enumerate(zip(parameters, weight_grads, strict=True)):
            own = None
            if parameter is head:
                own = to_head[which]
                if own is None:  # this process had no token of the term
                    own = torch.zeros(parameter.shape, device=parameter.device)
                own = step.group.reduce_scatter(own, parameter)
            grads[which][i] = _sum(grads[which][i], grad, own)


def _through_head(
    student: Policy,
    frozen: Frozen,
    hidden_TH: torch.Tensor,
    frozen_TH: Grads,
    piece: dict[str, Any],
    step: Step,
    scales: tuple[float, float],
    sums: Sums,
    head: torch.Tensor,
) -> tuple[list[torch.Tensor], Grads]:
    """The loss's gradient with respect to hidden states and, where it is trained, the head.

    One of each; where the step keeps the signal's apart, two, the second of the signal alone.
    """
    count = 2 if step.apart else 1
    to_hidden = [torch.zeros_like(hidden_TH) for _ in range(count)]
    to_head: Grads = [None] * count
    width = max(1, LOGITS_PER_CHUNK // len(student.unused_vocab_mask))
    for start in range(0, len(hidden_TH), width):
        cut = slice(start, start + width)
        part_TH = hidden_TH[cut].detach().requires_grad_()
        logits, logp_TV = _log_probabilities(student, part_TH)
        inputs = (student, frozen, logits, logp_TV, frozen_TH, piece, cut)
        for which, grad_TV in enumerate(_to_logits(*inputs, step, scales, sums)):
            if grad_TV is None:
                continue
            (part,) = torch.autograd.grad(logits, part_TH, grad_TV, retain_graph=True)
            to_hidden[which][cut] += part
            if head.requires_grad:  # an adapter leaves it alone
                to_head[which] = _to_head(to_head[which], grad_TV, part_TH.detach())
        del logp_TV, grad_TV  # before the next slice's
    return to_hidden, to_head


def _log_probabilities(
    student: Policy, hidden_TH: torch.Tensor
) -> tuple[GradientEdge, torch.Tensor]:
    """Log-probabilities (T, V), and where in the graph their logits stand, which are not kept."""
    logits_TV = student.head(hidden_TH)
    return get_gradient_edge(logits_TV), torch.log_softmax(logits_TV, dim=-1)


def _to_logits(
    student: Policy,
    frozen: Frozen,
    logits: GradientEdge,
    logp_TV: torch.Tensor,
    frozen_TH: Grads,
    piece: dict[str, Any],
    cut: slice,
    step: Step,
    scales: tuple[float, float],
    sums: Sums,
) -> Grads:
    """The gradient of a slice's loss, None where it has none; what else a slice takes is gone.

    Where the step keeps the signal's apart, that is the second.
    """
    leaf_TV, grads = logp_TV.detach().requires_grad_(), []
    terms = step.terms(_slice(student, frozen, leaf_TV, frozen_TH, piece, cut, sums))
    sums.signal += float(terms.signal_T.detach().double().sum())
    sums.anchor += float(terms.anchor_T.detach().double().sum())
    for which, term_T in enumerate(terms):
        grad_TV = None
        if scales[which] and term_T.requires_grad:
            loss = term_T.sum() * scales[which]
            (grad_TV,) = torch.autograd.grad(loss, leaf_TV, retain_graph=which == 0)
            (grad_TV,) = torch.autograd.grad(logp_TV, logits, grad_TV, retain_graph=True)
            grad_TV.masked_fill_(student.unused_vocab_mask, 0.0)
        grads.append(grad_TV)
    signal, anchor = grads
    # a sum of terms would not show it: the anchor alone is no reason to train
    sums.has_signal = sums.has_signal or (signal is not None and bool(signal.any()))
    whole = signal if anchor is None else anchor if signal is None else anchor.add_(signal)
    return [whole, signal] if step.apart else [whole]


def _to_head(
    total: torch.Tensor | None, grad_TV: torch.Tensor, hidden_TH: torch.Tensor
) -> torch.Tensor:
    """Added in place: autograd would make a matrix of the head's size for every slice."""
    if total is None:
        return grad_TV.T @ hidden_TH.float()
    return total.addmm_(grad_TV.T, hidden_TH.float())


def _sum(
    total: torch.Tensor | None, through_body: torch.Tensor | None, to_head: torch.Tensor | None
) -> torch.Tensor | None:
    """A head's first gradient becomes the total; the body's may be shared and are copied."""
    if total is None:
        total, to_head = to_head, None
    for part in (through_body, to_head):
        if part is not None:
            total = part.clone() if total is None else total.add_(part)
    return total


def _or_zeros(grad: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if grad is None else grad


def frozen_hidden(
    policy: Policy | None, student: Policy, batch: list[Sequence], bfloat16: bool
) -> torch.Tensor | None:
    """Hidden states of a policy that is only read; the student stands for what it adapts."""
    if policy is not student:
        return None if policy is None else hidden(policy, batch, bfloat16)[0]
    with adapters.switched_off(student.model):
        return hidden(student, batch, bfloat16)[0]


def hidden(
    policy: Policy, batch: list[Sequence], bfloat16: bool
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Hidden states (T, H) from which each token with a term, or with an old logp, was produced."""
    device = policy.model.device
    ids, mask = padded([[*s.context_ids, *s.token_ids] for s in batch], device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        hidden = policy.model.base_model(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
    rows, columns = [], []
    for b, s in enumerate(batch):
        rows.append(np.full(len(s.token_ids), b))
        columns.append(np.arange(len(s.token_ids)) + len(s.context_ids))
    row_T = torch.from_numpy(np.concatenate(rows)).to(device)
    column_T = torch.from_numpy(np.concatenate(columns)).to(device)
    own = [np.full(len(s.token_ids), s.old_logp_T is not None) for s in batch]
    old = [np.zeros(len(s.token_ids)) if s.old_logp_T is None else s.old_logp_T for s in batch]
    piece = {
        "tokens_T": ids[row_T, column_T],
        "signal_T": torch.from_numpy(np.concatenate([s.signal_T for s in batch])).to(device),
        "weight_T": torch.from_numpy(np.concatenate([s.weight_T for s in batch])).to(device),
        "anchor_T": torch.from_numpy(np.concatenate([s.anchor_T for s in batch])).to(device),
        "old_logp_T": torch.from_numpy(np.concatenate(old).astype(np.float32)).to(device),
        "own_T": torch.from_numpy(np.concatenate(own)).to(device),
    }
    if any(s.value_T is not None for s in batch):
        value = [np.zeros(len(s.token_ids)) if s.value_T is None else s.value_T for s in batch]
        piece["value_T"] = torch.from_numpy(np.concatenate(value).astype(np.float32)).to(device)
    return hidden[row_T, column_T - 1], piece


def _slice(
    student: Policy,
    frozen: Frozen,
    student_TV: torch.Tensor,
    frozen_TH: Grads,
    piece: dict[str, Any],
    cut: slice,
    sums: Sums,
) -> Slice:
    with torch.no_grad():
        reference_TV, teacher_TV = (
            None if p is None or h_TH is None else torch.log_softmax(p.head(h_TH[cut]), dim=-1)
            for p, h_TH in zip(frozen, frozen_TH, strict=True)
        )
    arrays = {name: value[cut] for name, value in piece.items()}
    own_T = arrays.pop("own_T")
    sliced = Slice(student_TV, reference_TV, teacher_TV, **arrays)
    # k3 estimate of KL(rollout policy || student): unbiased, never negative
    gap_T = (sliced.logp_T().detach() - sliced.old_logp_T)[own_T].double()
    sums.drift += float((gap_T.exp() - 1 - gap_T).sum())
    sums.own_tokens += int(own_T.sum())
    return sliced
