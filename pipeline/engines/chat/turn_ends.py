"""The ids that end a turn of a model: resolved when it is read in, listed in its folder."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils.hub import cached_file

from pipeline.core.errors import UserError
from pipeline.engines import checkpoints
from pipeline.engines.chat.templates import template_end


class Ends(NamedTuple):
    """The ids that end a turn of a model."""

    ids: tuple[int, ...]  # the first is what is written where a text has to end
    sources: tuple[str, ...]  # of each, where it is from


def resolve(tokenizer: Any, generation: Any, size: int, owner: str) -> Ends:
    """The ends of a model that is read in. Raises UserError.

    `generation` is its generation config's eos_token_id, `size` the rows of its head. The end that
    its template writes comes first, then the tokenizer's own.
    """
    listed = generation if isinstance(generation, list | tuple) else [generation]
    origins = sources(tokenizer, [int(x) for x in listed if x is not None and x < size])
    unused = [token for token in origins if token >= size]
    if unused:
        named = [f"{tokenizer.convert_ids_to_tokens(x)} (id {x}, {origins[x]})" for x in unused]
        raise UserError(
            f"{owner}: a turn ends with {', '.join(named)}, and its head has only {size} rows, so "
            "it can never write that. Use the checkpoint that was trained with this template, or "
            "give init.chat_template one that ends a turn with a token of the model."
        )
    if not origins:
        raise UserError(
            f"{owner}: neither its tokenizer, its generation_config.json nor its chat template "
            "names an end of a turn. Name one as eos_token in tokenizer_config.json."
        )
    return Ends(tuple(origins), tuple(origins.values()))


def sources(tokenizer: Any, listed: Iterable[int]) -> dict[int, str]:
    """The ends that files name, each with where it is from; `listed` are generation_config's."""
    written = template_end(tokenizer)
    origins: dict[int, str] = {}
    if written is not None:
        origins[written] = "chat template"
    if tokenizer.eos_token_id is not None:
        origins.setdefault(int(tokenizer.eos_token_id), "tokenizer.eos_token")
    for token in listed:
        if tokenizer.convert_ids_to_tokens(token) is not None:  # a stale one can never be written
            origins.setdefault(token, "generation_config.json")
    return origins


def named(tokenizer: Any, ids: Iterable[int]) -> str:
    """Ends as people know them: `<end_of_turn> (106)`."""
    return ", ".join(f"{tokenizer.convert_ids_to_tokens(x)} ({x})" for x in ids)


@functools.cache
def ends(folder: Path) -> tuple[int, ...]:
    """The ends that the checkpoint in `folder`, or its base, was read in with."""
    base = checkpoints.base(folder)
    listed = listed_ends(base)
    if not listed:
        raise UserError(
            f"{base}: names no end of a turn in generation_config.json. Rerun pretrain."
        )
    return listed


def listed_ends(where: str | Path) -> tuple[int, ...]:
    """eos_token_id of a folder's or hub name's generation_config.json, or else config.json."""
    for name in ("generation_config.json", "config.json"):
        path = cached_file(str(where), name, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            ids = json.loads(Path(path).read_text(encoding="utf-8")).get("eos_token_id")
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (int(ids),)
    return ()
