"""Rows of rollouts that another trainer made, as far as they can be checked without the student."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.engines.chat import prerendered
from pipeline.tasks import problem_files
from pipeline.tasks.problem_files import Row
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
    found, names = set(), set[str]()
    for row in read(path):
        ids, asked = row.first(*IDS, *TEXT), problem(row)
        if all(row.values.get(name) is None for name in IDS):
            reason_of(row)
        else:
            ids = ids_of(row, IDS)
        check_values(row, len(ids) if isinstance(ids, list) else None)
        once(row, name_of(row, ""), names)
        if known is not None:
            prerendered.refuse(row.where, asked.messages, known)
        found.add(asked.prompt)
    if not found:
        raise UserError(f"{path}: found no row, wanted rollouts. Check the path.")
    return len(found)


def read(path: Path, sha256: str | None = None) -> Iterator[Row]:
    return (row._replace(remedy=REMEDY) for row in problem_files.file(path, sha256))


def name_of(row: Row, otherwise: str) -> str:
    """The name of the rollout; 0 is one. Raises UserError."""
    found = row.values.get("rollout_id")
    if found is None:
        return otherwise
    if isinstance(found, float) and found.is_integer():
        return str(int(found))  # a column of numbers where some rows have none
    if type(found) is not int and not (isinstance(found, str) and found.strip()):
        raise row.wrong(("rollout_id",), found, "text that is not empty or a whole number, or none")
    return str(found)


def once(row: Row, name: str, taken: set[str]) -> None:
    """Add a rollout's name to those that are taken. Raises UserError where it is one of them."""
    if name and name in taken:
        raise refused(row, "rollout_id", repr(name), "a name that no other row has")
    taken.add(name)


def ids_of(row: Row, names: tuple[str, ...]) -> list[int]:
    """Token ids. Raises UserError where the field holds anything else."""
    found = row.first(*names)
    if not isinstance(found, list) or not found or any(type(x) is not int for x in found):
        raise row.wrong(names, found, "a list of token ids, at least one")
    if strange := [x for x in found if x < 0]:
        raise refused(row, names[0], f"{strange[:5]}", "ids from 0")
    return found


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
    # also what no float holds, as a whole number of 400 digits, is none
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def refused(row: Row, name: str, found: str, wanted: str) -> UserError:
    return UserError(f"{row.where}: {name}: found {found}, wanted {wanted}. Correct the row.")
