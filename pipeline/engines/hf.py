"""transformers as an engine: load, save, and sample with a KV cache.

Axes: B rows, T tokens, V vocabulary, P prompt tokens.
"""

import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from pipeline.config import params_file
from pipeline.core.errors import UserError
from pipeline.data.text import characters
from pipeline.engines import adapters, checkpoints, kv_cache
from pipeline.engines.chat import templates, tokenizer_files
from pipeline.engines.sampling import Generated, Sampler, Watch, generated, sample

transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class Policy:
    """A model with its tokenizer and the ids that the tokenizer can emit."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    unused_vocab_mask: torch.Tensor  # bool; True: an id of the head that stands for no token

    @functools.cached_property
    def _float_head(self) -> torch.Tensor:
        # made once: in a decode loop the cast would cost as much as the product. Only weights
        # that are not trained are coarser than float32, so the copy never goes stale.
        weight: torch.Tensor = self.model.get_output_embeddings().weight
        return weight.detach().float()

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a response, without special tokens and its end."""
        return decode_text(self.tokenizer, self.ends, token_ids)

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """Ids that end a turn, as its checkpoint has them; the first is the one to write."""
        found = self.model.generation_config.eos_token_id
        if found is None:
            found = self.tokenizer.eos_token_id
        return tuple(found) if isinstance(found, list) else (int(found),)

    @property
    def context(self) -> int | None:
        """Tokens of the longest row that the model can read; None if it does not say."""
        return checkpoints.context_of(self.model.config.to_dict())

    def prompt_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of the chat template with its generation prompt, thinking off."""
        return prompt_ids(self.tokenizer, messages)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits (..., V) of hidden states (..., H); unused ids at the lowest float."""
        weight: torch.Tensor = self.model.get_output_embeddings().weight
        if weight.dtype != torch.float32:
            weight = self._float_head
        logits: torch.Tensor = hidden.float() @ weight.T
        # in place: it is as large as the product, and nothing else has it
        return logits.masked_fill_(self.unused_vocab_mask, torch.finfo(torch.float32).min)


class Frozen(NamedTuple):
    """Policies that are read without gradient, where the objective needs them."""

    reference: Policy | None = None  # the round-0 checkpoint; the student: that without adapter
    teacher: Policy | None = None


def decode_text(
    tokenizer: PreTrainedTokenizerFast, ends: Collection[int], token_ids: Sequence[int]
) -> str:
    """The text of a response: whole characters, without special tokens and without its end, also
    where that is no special token."""
    kept = list(token_ids)
    if kept and kept[-1] in ends:
        kept.pop()
    return characters(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)), [], kept)[1]


def prompt_ids(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> list[int]:
    return templates.encode(tokenizer, templates.render(tokenizer, messages, "student"))


def load(folder: Path, device: str = "cpu", dtype: torch.dtype | None = None) -> Policy:
    """The checkpoint in `folder`, in its own dtype unless told. Raises UserError.

    An adapter comes on its base, in float32 whatever the base's dtype is.
    """
    base = checkpoints.verified_base(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base,
            dtype=dtype or "auto",
            use_safetensors=True,  # pickled weights run code
            trust_remote_code=checkpoints.runs_code(base),
        )
        if base != folder:
            adapters.load(model, folder)
        tokenizer = tokenizer_files.load(folder)
    except (ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: not loadable ({error}). Rerun its stage.") from error
    if tokenizer.chat_template is None:
        raise UserError(f"{folder}: the tokenizer needs a chat template.")
    return policy_of(model, tokenizer, device)


def frozen(folder: Path, device: str) -> Policy:
    """A checkpoint that nobody trains; a process of several steps loads it once. Raises UserError.

    Nothing of it may be changed.
    """
    return _kept(folder, device) if params_file.keep_frozen else load(folder, device)


@functools.cache
def _kept(folder: Path, device: str) -> Policy:
    return load(folder, device)


def white_box(folder: Path, vocabulary: dict[str, int], device: str) -> Policy:
    """A frozen checkpoint whose logits are read beside the student's.

    Raises UserError unless equal ids are equal strings in both.
    """
    found = frozen(folder, device)
    theirs = found.tokenizer.get_vocab()
    if theirs != vocabulary:
        shared = len(vocabulary.items() & theirs.items())
        raise UserError(
            f"{folder}: its tokenizer has {len(theirs)} tokens and the student's "
            f"{len(vocabulary)}, of which {shared} agree in id and string. White-box arms need "
            "equal ones; use a text-only objective such as omniopd."
        )
    found.model.requires_grad_(False)
    return found


def policy_of(model: Any, tokenizer: Any, device: str) -> Policy:
    rows = model.get_output_embeddings().weight.shape[0]
    unused = torch.ones(rows, dtype=torch.bool)
    # some tokenizers know more tokens than the head has rows
    unused[[token for token in tokenizer.get_vocab().values() if token < rows]] = False
    kv_cache.use(model)
    return Policy(model.to(device).eval(), tokenizer, unused.to(device))


def save(model: PreTrainedModel, tokenizer: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint whole or not at all, weights as `dtype`."""
    once: dict[tuple[Any, ...], torch.Tensor] = {}  # a head that is the embedding stays one tensor
    state = {
        name: once.setdefault((x.data_ptr(), x.shape, x.stride()), x.to(dtype))
        for name, x in model.state_dict().items()
    }
    try:
        with checkpoints.replacing_folder(folder) as temporary:
            model.save_pretrained(temporary, state_dict=state)
            model.config.dtype = dtype  # save_pretrained wrote that of the model in memory
            model.config.save_pretrained(temporary)
            tokenizer_files.save(tokenizer, temporary)
    except SafetensorError as error:  # what a full disk looks like to safetensors
        raise UserError(f"{folder}: could not be written ({error}). Free space.") from error


def generate(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    uniforms: Sequence[np.ndarray],
    sampler: Sampler,
    max_new_tokens: int,
    batch_tokens: int,
    done: Collection[int] = (),
    watch: Watch | None = None,
) -> Iterator[tuple[int, Generated]]:
    """Sample one response for each prompt, yielding (index, response) batch by batch.

    Batches of which all rows are `done` are left out; the others are as if none were.

    `uniforms[i]` holds row i's own max_new_tokens random numbers in [0, 1), so a row's tokens do
    not depend on which rows share its batch, up to the last bits of its logits.
    """
    lengths_B = np.fromiter(map(len, prompts), np.int64, len(prompts))
    order = map(int, np.argsort(lengths_B, kind="stable"))
    for batch in _batches(order, prompts, max_new_tokens, batch_tokens):
        if all(i in done for i in batch):
            continue
        rows = batch if len(batch) > 1 else batch * 2  # one row alone differs in the last bits
        with torch.inference_mode():
            cache, hidden_BH = kv_cache.read_once(policy, [prompts[i] for i in rows])
            lengths = torch.tensor([len(prompts[i]) for i in rows])
            uniforms_BT = torch.from_numpy(np.stack([uniforms[i] for i in rows]))
            if watch is not None:
                watch.begin(batch)
            how = (sampler, max_new_tokens, watch)
            found = decode(policy, cache, hidden_BH, lengths, uniforms_BT, *how)
        yield from zip(batch, found, strict=False)


def _batches(
    order: Iterator[int], prompts: Sequence[Sequence[int]], new_tokens: int, batch_tokens: int
) -> Iterator[list[int]]:
    batch: list[int] = []
    for index in order:  # ascending length, so the newest row is the longest
        if batch and (len(batch) + 1) * (len(prompts[index]) + new_tokens) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def decode(
    policy: Policy,
    cache: DynamicCache,
    hidden_BH: torch.Tensor,
    lengths: torch.Tensor,
    uniforms_BT: torch.Tensor,
    sampler: Sampler,
    max_new_tokens: int,
    watch: Watch | None = None,
) -> list[Generated]:
    """Continue rows whose prefixes stand in `cache`, row b's in its first lengths[b] slots;
    finished rows leave the batch when they are half of it."""
    device, width, ends = hidden_BH.device, cache.get_seq_length(), policy.ends
    kv_cache.with_room(cache, max_new_tokens)
    tokens: list[list[int]] = [[] for _ in range(len(lengths))]
    alive = torch.arange(len(lengths))
    mask = (torch.arange(width) < lengths[:, None]).long().to(device)
    positions, uniforms_BT = lengths.to(device), uniforms_BT.to(device)
    for step in range(max_new_tokens):
        logits_BV = policy.head(hidden_BH)
        ids = sample(logits_BV, uniforms_BT[:, step], sampler)
        running = []
        for place, (row, token) in enumerate(zip(alive.tolist(), ids.tolist(), strict=True)):
            if tokens[row] and tokens[row][-1] in ends:
                continue
            tokens[row].append(token)
            if token not in ends:
                running.append(place)
        last = step + 1 == max_new_tokens
        if watch is not None:
            watch.step(alive.tolist(), logits_BV, tokens, () if last else running)
        if last or not running:
            break
        if len(running) * 2 <= len(alive) and len(alive) > 2:
            others = set(range(len(alive))) - set(running)
            keep = torch.tensor([*running, *sorted(others)][: max(2, len(running))])
            cache.batch_select_indices(keep.to(device))
            alive, ids, mask = alive[keep], ids[keep], mask[keep]
            positions, uniforms_BT = positions[keep], uniforms_BT[keep]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        out = policy.model.base_model(
            input_ids=ids[:, None],
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        hidden_BH, positions = out.last_hidden_state[:, -1], positions + 1
    return [generated(ends, row) for row in tokens]
