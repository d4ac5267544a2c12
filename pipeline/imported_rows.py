"""Rows of rollouts that another trainer made, as far as they can be checked without the student."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import prerendered, rows
from pipeline.errors import UserError
from pipeline.rows import Row
from pipeline.tasks.prompts import problem

IDS = ("token_ids", "completion_ids")
TEXT = ("text", "completion", "response")
PROMPT_IDS = ("prompt_token_ids", "prompt_ids")
ENDS = ("stop", "length")
REMEDY = "Correct the row, or say with --format which trainer wrote the file."


def prompts_of(path: Path, known: prerendered.Marks | None = None) -> int:
    """How many different prompts the rows have. Raises UserError where one lacks what it needs.

    All that can be told without the student's tokenizer is told here, before any stage runs.
    `known`: what the student's template writes, where that is known yet; no prompt may hold it.
    """
    found = set()
    for row in read(path):
        ids, asked = row.first(*IDS, *TEXT), problem(row)
        if all(row.values.get(name) is None for name in IDS):
            reason_of(row)
        check_values(row, len(ids) if isinstance(ids, list) else None)
        name_of(row, "")
        if known is not None:
            prerendered.refuse(row.where, asked.messages, known)
        found.add(asked.prompt)
    if not found:
        raise UserError(f"{path}: found no row, wanted rollouts. Check the path.")
    return len(found)


def read(path: Path, sha256: str | None = None) -> Iterator[Row]:
    return (row._replace(remedy=REMEDY) for row in rows.file(path, sha256))


def name_of(row: Row, otherwise: str) -> str:
    """Of the rollout; 0 is one. Raises UserError."""
    found = row.values.get("rollout_id")
    if found is None:
        return otherwise
    if isinstance(found, float) and found.is_integer():
        return str(int(found))  # a column of numbers where some rows have none
    if type(found) is not int and not (isinstance(found, str) and found.strip()):
        raise row.wrong(("rollout_id",), found, "text that is not empty or a whole number, or none")
    return str(found)


def reason_of(row: Row) -> str:
    """The finish_reason, which a text without ids needs. Raises UserError."""
    found = row.first("finish_reason")
    if found not in ENDS:
        raise row.wrong(("finish_reason",), found, " or ".join(ENDS))
    return str(found)


def check_values(row: Row, tokens: int | None) -> None:
    logprobs, reward = row.values.get("logprobs"), row.values.get("reward")
    if logprobs is not None:
        if not isinstance(logprobs, list) or not all(_is_number(x) for x in logprobs):
            raise row.wrong(("logprobs",), logprobs, "a list of numbers")
        if tokens is not None and len(logprobs) != tokens:
            raise refused(row, "logprobs", f"{len(logprobs)}", f"one for each of {tokens} tokens")
    if reward is not None and not _is_number(reward):
        raise row.wrong(("reward",), reward, "a number")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def refused(row: Row, name: str, found: str, wanted: str) -> UserError:
    return UserError(f"{row.where}: {name}: found {found}, wanted {wanted}. Correct the row.")
