"""Keys and values of rows that are decoded: with room for what comes, read where they stand.

transformers' own cache copies all of them for each token, and where several heads of a query share
keys (grouped-query attention) it writes these out once a head. Together that is more memory traffic
than the weights are.

Axes: B rows, R texts, P tokens of a text, H hidden size; Q heads of queries, K heads of keys,
S slots, D head size.
"""

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

GROUPED = "grouped"  # name of `grouped` among transformers' attention functions


class Room(DynamicLayer):
    """A layer's keys and values in the first slots of tensors that have more."""

    def __init__(self, filled: DynamicLayer, more: int) -> None:
        """Take those of `filled`, which is left empty, and room for `more` slots."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device, self.is_initialized = filled.dtype, filled.device, True
        width = filled.get_seq_length()
        assert filled.keys is not None
        assert filled.values is not None
        self._keys, self._values = _room(filled.keys, more), _room(filled.values, more)
        filled.reset()
        self._show(width)

    def _show(self, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        found = self._keys[:, :, :width], self._values[:, :, :width]
        self.keys, self.values = found
        return found

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        self._keys[:, :, begin:end], self._values[:, :, begin:end] = key_states, value_states
        return self._show(end)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        width = self.get_seq_length()
        self._keys, self._values = self._keys[indices], self._values[indices]
        self._show(width)


def _room(filled_BKSD: torch.Tensor, more: int) -> torch.Tensor:
    rows, heads, width, size = filled_BKSD.shape
    found = filled_BKSD.new_empty(rows, heads, width + more, size)
    found[:, :, :width] = filled_BKSD
    return found


def keeps_all(layer: object) -> TypeGuard[DynamicLayer]:
    """Whether a layer keeps every slot: it has no window and no state instead."""
    return type(layer) is DynamicLayer


def with_room(cache: DynamicCache, more: int) -> None:
    """Give each layer that keeps all slots room for `more`; the others stay as they are."""
    for index, layer in enumerate(cache.layers):
        if keeps_all(layer) and layer.is_initialized:
            cache.layers[index] = Room(layer, more)


def padded(rows: Sequence[Sequence[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids (B, P) and mask (B, P)."""
    width = max(len(row) for row in rows)
    ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def prefill(policy: Any, rows: Sequence[Sequence[int]]) -> tuple[DynamicCache, torch.Tensor]:
    """KV cache of right-padded rows and the hidden state (B, H) at each row's last token."""
    ids, mask = padded(rows, policy.model.device)
    cache = DynamicCache(config=policy.model.config)
    out = policy.model.base_model(
        input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True
    )
    last = mask.sum(1) - 1
    return cache, out.last_hidden_state[torch.arange(len(rows)), last]


def read_once(policy: Any, rows: Sequence[Sequence[int]]) -> tuple[DynamicCache, torch.Tensor]:
    """`prefill` of rows of which several may be equal, as samples of one prompt are."""
    places = {text: place for place, text in enumerate(dict.fromkeys(map(tuple, rows)))}
    texts = list(places) if len(places) > 1 else list(places) * 2
    cache, hidden_RH = prefill(policy, texts)
    if len(places) == len(rows):
        return cache, hidden_RH
    text_B = torch.tensor([places[tuple(row)] for row in rows], device=hidden_RH.device)
    cache.batch_select_indices(text_B)
    return cache, hidden_RH[text_B]


def copies(model: Any, cache: DynamicCache, row_B: torch.Tensor, width: int) -> DynamicCache:
    """The first `width` slots of some rows of a model's cache, each as often as it is named."""
    found = DynamicCache(config=model.config)
    layers: list[Any] = cache.layers
    for index, layer in enumerate(layers):
        found.update(layer.keys[row_B, :, :width], layer.values[row_B, :, :width], index)
    return found


def grouped(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' `sdpa`; of one new token a row, with the heads that share keys side by side.

    The Q / K queries that share a head's keys stand at one position, so they are as that many
    tokens of one head, and the keys are read where they are. `query` is (B, Q, 1, D), `key` and
    `value` (B, K, S, D), the mask (B, 1, 1, S); returns (B, 1, Q, D).
    """
    rows, heads, new, size = query.shape
    shared = heads // key.shape[1]
    whole = attention_mask is None or attention_mask.shape[1] == 1
    if new > 1 or shared == 1 or not whole or others.get("position_bias") is not None:
        how = {"dropout": dropout, "scaling": scaling, **others}
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **how
        )
        return found
    out = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], shared, size),
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scaling,
    )
    return out.reshape(rows, 1, heads, out.shape[-1]), None


def use(model: Any) -> None:
    """Have a model that attends through `sdpa` do so through `grouped`."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(GROUPED)


AttentionInterface.register(GROUPED, grouped)
AttentionMaskInterface.register(GROUPED, sdpa_mask)
