"""Slices of the prompts table: what a round trains on and what an evaluation asks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow.compute as pc

from pipeline.core.disk_rows import Each, Row, Spool, decode, encode
from pipeline.core.errors import UserError, too_long
from pipeline.data import schemas, tables


class Prompt(NamedTuple):
    prompt_id: str
    task: str
    messages: list[dict[str, str]]
    prompt: str
    answer: str


def read(path: Path, split: str, start: int = 0, count: int | None = None) -> Sequence[Prompt]:
    """Rows `start` to `start + count` of `split` in table order, kept on disk.

    Raises UserError if too few.
    """
    found, seen = Spool(), 0
    for part in tables.stream(path, schemas.PROMPTS):
        for row in part.filter(pc.equal(part["split"], split)).to_pylist():
            if seen >= start and (count is None or seen < start + count):
                found.add(len(found), tuple(encode(row[name]) for name in Prompt._fields))
            seen += 1
    wanted = seen if count is None else start + count
    if not seen or wanted > seen:
        raise UserError(
            f"{path}: split {split!r} has {seen} problems, wanted at least {max(wanted, 1)}. "
            "Enlarge prepare, or use fewer rounds or problems."
        )
    return Each(found, _prompt)


def _prompt(row: Row) -> Prompt:
    prompt_id, task, messages, prompt, answer = map(decode, row)
    return Prompt(prompt_id, task, json.loads(messages), prompt, answer)


class Reader(Protocol):
    """A student that is about to answer prompts."""

    @property
    def context(self) -> int | None:
        """Tokens of the longest row that it reads."""
        ...

    def prompt_ids(self, messages: list[dict[str, str]]) -> list[int]: ...


def token_ids(asked: Sequence[Prompt], reader: Reader, new_tokens: int) -> Spool:
    """The ids of each prompt, on disk.

    Raises UserError naming the first that the chat template refuses, or that leaves no room for
    `new_tokens` of a response.
    """
    found = Spool(len(asked))
    for i, prompt in enumerate(asked):
        where = f"prompts table, prompt_id {prompt.prompt_id}"
        try:
            ids = reader.prompt_ids(prompt.messages)
        except UserError as error:
            start = prompt.messages[-1]["content"][:40]
            raise UserError(f"{where} ({start!r}): {error}") from error
        if reader.context is not None and len(ids) + new_tokens > reader.context:
            raise too_long(
                f"{where}: its prompt of {len(ids)} tokens and a response of {new_tokens}",
                len(ids) + new_tokens,
                reader.context,
                "Lower max_new_tokens, leave the prompt out, or use another student.",
            )
        found.add(i, (np.asarray(ids, np.int32),))
    return found
