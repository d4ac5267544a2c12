"""The exact pass: log-probabilities and entropies of finished responses, teacher-forced.

A prompt is read once for all of its responses, which then go through the model behind its keys and
values, one behind another without padding. Float32 logits, only ids that the tokenizer can emit,
untempered, in slices over positions so that (tokens, vocabulary) never stands in memory.

Axes: B responses, R prompts, P prompt tokens, T response tokens, H hidden size, V vocabulary.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import torch

from pipeline.engines import kv_cache
from pipeline.engines.hf import Policy
from pipeline.engines.kv_cache import Texts, padded

LOGITS_PER_CHUNK = 1 << 24  # 64 MiB of float32
# tokens that one forward pass holds. On a CPU so many that its hidden states are of this many
# numbers: beyond it, what one layer hands the next leaves the processor's cache
CPU_HIDDEN, GPU_TOKENS = 1 << 21, 1 << 13
HELD = 4  # times as many have a layer's keys and values in memory, with the prompts in front

Ids = Sequence[Sequence[int]]
Found = tuple[int, np.ndarray, np.ndarray]


def exact(
    policy: Policy, prompts: Ids, responses: Ids, batch_tokens: int, done: Collection[int] = ()
) -> Iterator[Found]:
    """(index, log pi(y_t) (T,), H_t (T,)) of each response, nats; H_t is of the distribution
    that produced y_t. They come out of order, packed by prompt and length; batches of which all
    rows are `done` are left out."""
    length_B = np.fromiter(map(len, responses), np.int64, len(responses))
    most = _most(policy, batch_tokens)
    if not kv_cache.packs(policy.model):
        length_B += np.fromiter(map(len, prompts), np.int64, len(prompts))
        for batch in _batches(range(len(prompts)), length_B, most, most):
            if not all(i in done for i in batch):
                yield from _whole(policy, prompts, responses, batch)
        return
    held = min(batch_tokens, HELD * most)
    for rows, longest in _by_prompt(prompts, most):
        found = _batches(rows, length_B, most, held, longest)
        batches = [batch for batch in found if not all(i in done for i in batch)]
        if batches:
            yield from _shared(policy, prompts, responses, batches)


def _most(policy: Policy, batch_tokens: int) -> int:
    """Tokens that one forward pass holds."""
    if policy.model.device.type != "cpu":
        return min(batch_tokens, GPU_TOKENS)
    wide: int = policy.model.get_output_embeddings().weight.shape[1]
    return min(batch_tokens, max(1, CPU_HIDDEN // wide))


def _by_prompt(prompts: Ids, most: int) -> Iterator[tuple[list[int], int]]:
    """Rows whose prompts are read together, all rows of a prompt at once; the longest prompt."""
    length_B, same_B = np.zeros(len(prompts), np.int64), np.zeros(len(prompts), np.uint64)
    for i, prompt in enumerate(prompts):
        ids = np.asarray(prompt, np.int64)
        length_B[i] = len(ids)
        same_B[i] = int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "big")
    rows: list[int] = []
    count, last = 0, -1
    for i in map(int, np.lexsort((same_B, length_B))):  # stable
        new = last < 0 or (length_B[i], same_B[i]) != (length_B[last], same_B[last])
        if rows and new and (count + 1) * length_B[i] > most:
            yield rows, int(length_B[last])
            rows, count = [], 0
        rows.append(i)
        count, last = count + new, i
    if rows:
        yield rows, int(length_B[last])


def _batches(
    rows: Iterable[int], length_B: np.ndarray, most: int, held: int, before: int = 0
) -> Iterator[list[int]]:
    """Rows of like length together: at most `most` tokens and, padded as attention needs them
    behind the `before` that stand in front of each, `held`, unless one alone is longer."""
    batch: list[int] = []
    tokens = 0
    for index in sorted(rows, key=lambda i: int(length_B[i])):
        length = int(length_B[index])
        if batch and (tokens + length > most or (len(batch) + 1) * (before + length) > held):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += length
    if batch:
        yield batch


@torch.inference_mode()
def _whole(policy: Policy, prompts: Ids, responses: Ids, batch: list[int]) -> Iterator[Found]:
    """A batch of rows each of which is read from its first token on."""
    rows = [[*prompts[i], *responses[i]] for i in batch]
    ids, mask = padded(rows, policy.model.device)
    hidden = policy.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    spans = [range(len(prompts[i]) - 1, len(row) - 1) for i, row in zip(batch, rows, strict=True)]
    before = [hidden[b, span.start : span.stop] for b, span in enumerate(spans)]
    yield from _found(policy, batch, before, responses)


@torch.inference_mode()
def _shared(
    policy: Policy, prompts: Ids, responses: Ids, batches: list[list[int]]
) -> Iterator[Found]:
    """Batches of rows behind their prompts, which are read together and once each."""
    own = {i: tuple(map(int, prompts[i])) for batch in batches for i in batch}
    texts = list(dict.fromkeys(own.values()))
    cache, read_NH = kv_cache.packed(policy, texts)
    last_RH = read_NH[np.cumsum([len(text) for text in texts]) - 1]
    place = {text: r for r, text in enumerate(texts)}
    for batch in batches:
        behind = {i: responses[i][:-1] for i in batch if len(responses[i]) > 1}
        first = {i: last_RH[place[own[i]], None] for i in batch}
        states = {i: first[i][: len(responses[i])] for i in batch}
        if behind:
            front = Texts(cache, list(map(len, texts)), [place[own[i]] for i in behind])
            _, rest_NH = kv_cache.packed(policy, list(behind.values()), front)
            parts = torch.split(rest_NH, [len(row) for row in behind.values()])
            states |= {i: torch.cat([first[i], x]) for i, x in zip(behind, parts, strict=True)}
        yield from _found(policy, batch, list(states.values()), responses)


def _found(
    policy: Policy, batch: list[int], before: list[torch.Tensor], responses: Ids
) -> Iterator[Found]:
    """What a batch comes to, from the hidden states (T, H) that each row's tokens came from."""
    tokens_T = torch.tensor([int(t) for i in batch for t in responses[i]])
    tokens_T = tokens_T.to(policy.model.device)
    logps, entropies = logps_and_entropies(policy, torch.cat(before), tokens_T)
    cuts = np.cumsum([len(own) for own in before])[:-1]
    yield from zip(batch, np.split(logps, cuts), np.split(entropies, cuts), strict=True)


def logps_and_entropies(
    policy: Policy, hidden_TH: torch.Tensor, tokens_T: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of each token and entropy of its distribution, both (T,), nats."""
    step = max(1, LOGITS_PER_CHUNK // len(policy.unused_vocab_mask))
    logps, entropies = [], []
    for part_TH, ids_T in zip(
        torch.split(hidden_TH, step), torch.split(tokens_T, step), strict=True
    ):
        logits_TV = policy.head(part_TH)
        logits_TV -= logits_TV.amax(-1, keepdim=True)  # in place: it is a slice's 64 MiB
        own_T = logits_TV.gather(1, ids_T[:, None])[:, 0]
        odds_TV = logits_TV.exp()
        total_T = odds_TV.sum(-1)
        logps.append(own_T - total_T.log())
        entropies.append(total_T.log() - odds_TV.mul_(logits_TV).sum(-1) / total_T)
    return torch.cat(logps).cpu().numpy(), torch.cat(entropies).clamp(min=0).cpu().numpy()
