"""Slices of the prompts table: what a round trains on and what an evaluation asks."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from pipeline import tables
from pipeline.errors import UserError
from pipeline.spool import Each, Row, Spool, letters, text


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
    for part in tables.stream(path, tables.PROMPTS):
        for row in part.filter(pc.equal(part["split"], split)).to_pylist():
            if seen >= start and (count is None or seen < start + count):
                found.add(len(found), tuple(letters(row[name]) for name in Prompt._fields))
            seen += 1
    wanted = seen if count is None else start + count
    if not seen or wanted > seen:
        raise UserError(
            f"{path}: split {split!r} has {seen} problems, wanted at least {max(wanted, 1)}. "
            "Enlarge prepare, or use fewer rounds or problems."
        )
    return Each(found, _prompt)


def _prompt(row: Row) -> Prompt:
    prompt_id, task, messages, prompt, answer = map(text, row)
    return Prompt(prompt_id, task, json.loads(messages), prompt, answer)


def token_ids(
    asked: Sequence[Prompt], encode: Callable[[list[dict[str, str]]], list[int]]
) -> Spool:
    """What `encode` makes of the messages of each, on disk."""
    found = Spool(len(asked))
    for i, prompt in enumerate(asked):
        found.add(i, (np.asarray(encode(prompt.messages), np.int32),))
    return found
