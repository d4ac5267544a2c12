"""Slices of the prompts table: what a round trains on and what an evaluation asks."""

import json
from pathlib import Path
from typing import NamedTuple

import pyarrow.compute as pc

from pipeline import tables
from pipeline.errors import UserError


class Prompt(NamedTuple):
    prompt_id: str
    task: str
    messages: list[dict[str, str]]
    prompt: str
    answer: str


def read(path: Path, split: str, start: int = 0, count: int | None = None) -> list[Prompt]:
    """Rows `start` to `start + count` of `split` in table order. Raises UserError if too few."""
    found, seen = [], 0
    for part in tables.stream(path, tables.PROMPTS):
        for row in part.filter(pc.equal(part["split"], split)).to_pylist():
            if seen >= start and (count is None or seen < start + count):
                messages = json.loads(row["messages"])
                names = (row["prompt"], row["answer"])
                found.append(Prompt(row["prompt_id"], row["task"], messages, *names))
            seen += 1
    wanted = seen if count is None else start + count
    if not seen or wanted > seen:
        raise UserError(
            f"{path}: split {split!r} has {seen} problems, wanted at least {max(wanted, 1)}. "
            "Enlarge prepare, or use fewer rounds or problems."
        )
    return found
