"""Slices of the prompts table: what a round trains on and what an evaluation asks."""

import json
from pathlib import Path
from typing import NamedTuple

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
    table = tables.read(path, tables.PROMPTS)
    found = [
        Prompt(
            row["prompt_id"], row["task"], json.loads(row["messages"]), row["prompt"], row["answer"]
        )
        for row in table.to_pylist()
        if row["split"] == split
    ]
    wanted = len(found) if count is None else start + count
    if not found or wanted > len(found):
        raise UserError(
            f"{path}: split {split!r} has {len(found)} problems, wanted at least {max(wanted, 1)}. "
            "Enlarge prepare, or use fewer rounds or problems."
        )
    return found[start:wanted]
