"""Keys and values of rows that are decoded: with room for what comes, read where they stand.

transformers' own cache copies all of them for each token, and where several heads of a query share
keys (grouped-query attention) it writes these out once a head. Together that is more memory traffic
than the weights are.

What is read at once, and not token by token, needs no padding but in the attention itself: `packed`
sends the tokens of all rows through the model one behind another.

Axes: B rows, R texts, P tokens of a text, T new tokens of a row, N of all rows, H hidden size;
Q heads of queries, K heads of keys, S slots, D head size.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

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


class Texts(NamedTuple):
    """What stands in front of rows: texts that `packed` has read, which one is before each row."""

    cache: DynamicCache
    length_R: Sequence[int]
    text_B: Sequence[int]


@dataclass(frozen=True)
class Packing:
    """Where tokens that go through a model one behind another, unpadded, stand where they attend.

    Places without a token are filled with any; the mask hides them.
    """

    place_N: torch.Tensor  # of each token, in (B * T)
    query_BT: torch.Tensor  # a token in N for each place
    key_BS: torch.Tensor  # a token for each place, those of the texts come first, then N
    # True: seen. None without texts: what a row may see is what comes before, so its padding hides
    # itself, and nothing of T x T stands in memory
    mask_B1TS: torch.Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], texts: Texts | None, device: Any) -> "Packing":
        own = np.array(lengths)
        read = np.array([0] if texts is None else texts.length_R)
        text_B = np.zeros(len(own), int) if texts is None else np.asarray(texts.text_B)
        row_first, text_first = np.cumsum(own) - own, (np.cumsum(read) - read)[text_B]
        slot_T, slot_S = np.arange(own.max()), np.arange((own + read[text_B]).max())
        before = read[text_B][:, None]
        here = slot_T < own[:, None]
        query = np.where(here, row_first[:, None] + slot_T, 0)
        behind = read.sum() + row_first[:, None] + slot_S - before
        key = np.where(slot_S < before, text_first[:, None] + slot_S, behind)
        key = np.where(slot_S < before + own[:, None], key, 0)
        found = [torch.from_numpy(x).to(device) for x in (np.flatnonzero(here), query, key)]
        seen = slot_S <= (before + slot_T)[:, :, None]
        mask = None if texts is None else torch.from_numpy(seen[:, None]).to(device)
        return cls(found[0], found[1], found[2], mask)

    def attend(
        self,
        module: torch.nn.Module,
        query_1QND: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        how: dict[str, Any],
    ) -> torch.Tensor:
        """Attention of (B, T), to keys and values (B, K, S, D); returns (1, N, Q, D)."""
        query = _spread(query_1QND[0].transpose(0, 1), self.query_BT)
        if query.device.type == "cpu" and how.get("position_bias") is None:
            # torch's kernel there reads keys that heads share where they are; transformers writes
            # them out once a head, as the masked kernels of a GPU need them
            mask, same = self.mask_B1TS, query.shape[1] == key.shape[1]
            told = {"dropout_p": how["dropout"], "scale": how["scaling"], "enable_gqa": not same}
            out = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, **told
            ).transpose(1, 2)
        else:
            out, _ = sdpa_attention_forward(module, query, key, value, self.mask_B1TS, **how)
        return out.flatten(0, 1)[self.place_N][None]


def _spread(states_NXD: torch.Tensor, place_BS: torch.Tensor) -> torch.Tensor:
    rows, slots = place_BS.shape
    found = states_NXD.index_select(0, place_BS.flatten())
    return found.view(rows, slots, *states_NXD.shape[1:]).transpose(1, 2)


class Read(DynamicLayer):
    """A layer's keys and values of rows that are read packed, behind texts that were, if any."""

    def __init__(self, packing: Packing, text: "Read | None") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._packing, self._text = packing, text
        self.states: list[torch.Tensor] = []  # two of (N, K, D)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.states = [x[0].transpose(0, 1) for x in (key_states, value_states)]
        seen = self.states
        if self._text is not None:
            seen = [torch.cat(x) for x in zip(self._text.states, seen, strict=True)]
            self.states = []  # nothing is read behind these rows
        keys, values = (_spread(x, self._packing.key_BS) for x in seen)
        return keys, values


_packing: ContextVar[Packing | None] = ContextVar("_packing", default=None)


def packs(model: Any) -> bool:
    """Whether `packed` can read with this model: it attends through `grouped`, to every slot."""
    layers = DynamicCache(config=model.config).layers
    return model.config._attn_implementation == GROUPED and all(map(keeps_all, layers))


def packed(
    policy: Any, rows: Sequence[Sequence[int]], texts: Texts | None = None
) -> tuple[DynamicCache, torch.Tensor]:
    """What `Texts` needs of rows, none of them empty, and their hidden states (N, H), row behind
    row. Behind `texts` nothing is kept of the rows."""
    device = policy.model.device
    packing = Packing.of([len(row) for row in rows], texts, device)
    layers: list[Any] = [None] * len(DynamicCache(config=policy.model.config).layers)
    if texts is not None:
        layers = texts.cache.layers
    cache = DynamicCache()
    cache.layers = [Read(packing, layer) for layer in layers]
    before = [0] * len(rows) if texts is None else [texts.length_R[t] for t in texts.text_B]
    places = [b + t for b, row in zip(before, rows, strict=True) for t in range(len(row))]
    told = _packing.set(packing)
    try:
        out = policy.model.base_model(
            input_ids=torch.tensor([[int(t) for row in rows for t in row]], device=device),
            # of four axes, so that transformers makes none; `attend` has its own
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
            position_ids=torch.tensor([places], device=device),
            past_key_values=cache,
            use_cache=True,
        )
    finally:
        _packing.reset(told)
    return cache, out.last_hidden_state[0]


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

    Of rows that are `packed` the query is (1, Q, N, D) and the result (1, N, Q, D).

    The Q / K queries that share a head's keys stand at one position, so they are as that many
    tokens of one head, and the keys are read where they are. `query` is (B, Q, 1, D), `key` and
    `value` (B, K, S, D), the mask (B, 1, 1, S); returns (B, 1, Q, D).
    """
    packing, how = _packing.get(), {"dropout": dropout, "scaling": scaling, **others}
    if packing is not None:
        return packing.attend(module, query, key, value, how), None
    rows, heads, new, size = query.shape
    shared = heads // key.shape[1]
    whole = attention_mask is None or attention_mask.shape[1] == 1
    if new > 1 or shared == 1 or not whole or others.get("position_bias") is not None:
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
