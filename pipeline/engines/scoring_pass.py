"""The exact pass: log-probabilities and entropies of finished responses, teacher-forced.

Float32 logits, only ids that the tokenizer can emit, untempered, in slices over positions so
that (tokens, vocabulary) never stands in memory.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch

from pipeline.engines.hf import Policy, padded

LOGITS_PER_CHUNK = 1 << 24  # 64 MiB of float32


def exact(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    batch_tokens: int,
    done: Collection[int] = (),
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(index, log pi(y_t) (T,), H_t (T,)) of each response, nats; H_t is of the distribution
    that produced y_t. Rows are packed by length, so they come out of order; batches of which
    all rows are `done` are left out."""
    both = (len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    lengths = np.fromiter(both, np.int64, len(prompts))
    for batch in _batches(lengths, batch_tokens):
        if not all(i in done for i in batch):
            yield from _batch(policy, prompts, responses, batch)


def _batches(lengths: np.ndarray, batch_tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for index in map(int, np.argsort(lengths, kind="stable")):
        if batch and (len(batch) + 1) * lengths[index] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.inference_mode()
def _batch(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    batch: list[int],
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    rows = [[*prompts[i], *responses[i]] for i in batch]
    ids, mask = padded(rows, policy.model.device)
    hidden = policy.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    spans = [range(len(prompts[i]) - 1, len(row) - 1) for i, row in zip(batch, rows, strict=True)]
    before = torch.cat([hidden[b, span.start : span.stop] for b, span in enumerate(spans)])
    tokens = torch.cat([ids[b, span.start + 1 : span.stop + 1] for b, span in enumerate(spans)])
    logps, entropies = logps_and_entropies(policy, before, tokens)
    cuts = np.cumsum([len(span) for span in spans])[:-1]
    return list(zip(batch, np.split(logps, cuts), np.split(entropies, cuts), strict=True))


def logps_and_entropies(
    policy: Policy, hidden_TH: torch.Tensor, tokens_T: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of each token and entropy of its distribution, both (T,), nats."""
    step = max(1, LOGITS_PER_CHUNK // len(policy.unused_vocab_mask))
    logps, entropies = [], []
    for start in range(0, len(tokens_T), step):
        logp_TV = torch.log_softmax(policy.head(hidden_TH[start : start + step]), dim=-1)
        prob_TV = logp_TV.exp()
        # with AVX2 alone torch's log_softmax over 150,000 ids leaves a mass 3e-5 off 1
        mass_T = prob_TV.sum(-1)
        own_T = logp_TV.gather(1, tokens_T[start : start + step, None])[:, 0]
        logps.append(own_T - mass_T.log())
        entropies.append(mass_T.log() - (prob_TV * logp_TV).sum(-1) / mass_T)
    return torch.cat(logps).cpu().numpy(), torch.cat(entropies).clamp(min=0).cpu().numpy()
