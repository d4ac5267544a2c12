"""Many continuations from many places of the same texts, each text read once.

Axes: B rows being decoded, R texts read, P prefix tokens, H hidden size.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import DynamicCache

from pipeline.engines.asks import Ask
from pipeline.engines.hf import Policy, decode
from pipeline.engines.kv_cache import copies, padded
from pipeline.engines.sampling import Generated, Sampler


def branches(
    policy: Policy, asks: Sequence[Ask], temperature: float, limit: int, batch_tokens: int
) -> Iterator[list[Generated]]:
    """Yield, for each ask in order, its draws' continuations, up to `limit` tokens each."""
    for batch in _batches(asks, limit, batch_tokens):
        found = _branch(policy, batch, Sampler(temperature), limit)
        for ask in batch:
            yield [next(found) for _ in ask.draws]


def _batches(asks: Sequence[Ask], limit: int, batch_tokens: int) -> Iterator[list[Ask]]:
    batch: list[Ask] = []
    rows = width = 0
    for ask in asks:
        longest = max(map(len, ask.prompts.values())) + limit
        if batch and (rows + len(ask.draws)) * max(width, longest) > batch_tokens:
            yield batch
            batch, rows, width = [], 0, 0
        batch.append(ask)
        rows, width = rows + len(ask.draws), max(width, longest)
    if batch:
        yield batch


@torch.inference_mode()
def _branch(
    policy: Policy, asks: Sequence[Ask], sampler: Sampler, limit: int
) -> Iterator[Generated]:
    texts, places = _texts(asks)
    cache, hidden_RPH = _read(policy, texts)
    rows = [places[a, draw.position] for a, ask in enumerate(asks) for draw in ask.draws]
    seeds = [draw.seed for ask in asks for draw in ask.draws]
    if len(rows) == 1:  # one row alone differs in the last bits from the same row in a batch
        rows, seeds = rows * 2, seeds * 2
    text_B = torch.tensor([text for text, _ in rows])
    length_B = torch.tensor([length for _, length in rows])
    uniforms_BT = np.stack([np.random.default_rng(seed).random(limit) for seed in seeds])
    found = decode(
        policy,
        copies(policy.model, cache, text_B, int(length_B.max())),
        hidden_RPH[text_B, length_B - 1],
        length_B,
        torch.from_numpy(uniforms_BT),
        sampler,
        limit,
    )
    return iter(found)


def _texts(asks: Sequence[Ask]) -> tuple[list[list[int]], dict[tuple[int, int], tuple[int, int]]]:
    """The texts to read and, for each (ask, position), its text and prefix length in it.

    A prefix that begins a longer one of the same ask is read as part of it. (Where the teacher's
    tokenizer is not the student's, a longer text may be cut into other tokens: read by itself.)
    """
    texts: list[list[int]] = []
    places = {}
    for a, ask in enumerate(asks):
        first = len(texts)
        for position, prompt in sorted(ask.prompts.items(), key=lambda item: -len(item[1])):
            prefix = [int(token) for token in prompt]  # a local teacher's prompts are token ids
            for t in range(first, len(texts)):
                if texts[t][: len(prefix)] == prefix:
                    break
            else:
                t = len(texts)
                texts.append(prefix)
            places[a, position] = (t, len(prefix))
    return texts, places


def _read(policy: Policy, texts: list[list[int]]) -> tuple[DynamicCache, torch.Tensor]:
    """KV cache and hidden states (R, P, H) of right-padded texts."""
    ids, mask = padded(texts if len(texts) > 1 else texts * 2, policy.model.device)
    cache = DynamicCache(config=policy.model.config)
    out = policy.model.base_model(
        input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True
    )
    return cache, out.last_hidden_state
