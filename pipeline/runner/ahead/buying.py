"""Answers at the forks of rows that come one after the other, for the teach cells that want them.

Forks, prompts, keys, claims, budget and the teacher's check are those of the stages, by the same
functions. Entropies that were seen while a row was sampled are those of its table up to rounding,
so a fork may move: then it is bought where the table has it as well, and counted.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.data import schemas
from pipeline.engines import checkpoints
from pipeline.judgments.store import Store
from pipeline.method.forks import READ, ForksParams, forks
from pipeline.stage import cells
from pipeline.teachers.purchase import requests
from pipeline.teachers.purchase.ledger import LEAST_DRAWS, Ledger
from pipeline.teachers.purchase.truncation import lacking
from pipeline.teachers.teach_cell import TeachParams, judge, template_lead

BLOCK = 64  # rows whose forks are looked up and asked for together
LOOK_SECONDS = 0.1  # between looks for more rows
PART = 1 << 20  # bytes of them that are read together
SCHEMA = pa.schema([schemas.ROLLOUTS.field(name) for name in READ])
Row = dict[str, Any]
log = logging.getLogger("omniopd")


def run(
    file: int,
    complete: threading.Event,
    key: str,
    teach: list[str],
    store: Store,
    told: Callable[[int], None],
) -> dict[str, Any]:
    """Buy for every row of `file`; counts of what was bought. `told` hears how many rows are done.

    A cell of which something fails is said and left to stage teach.
    """
    buyers: list[Ahead] = []
    for name in teach:
        with _left(key, name):
            buyers.append(Ahead(name, store))
    going, done = set(buyers), 0
    for block in blocks(file, complete) if going else ():
        for one in [one for one in buyers if one in going]:
            going.remove(one)
            with _left(key, one.key):
                one.buy(block)
                going.add(one)
        done += len(block)
        told(done)
        if not going:
            break
    return _counts(buyers)


@contextlib.contextmanager
def _left(key: str, teach: str) -> Iterator[None]:
    """Say what stops the purchase for a teach cell, and leave the cell to its stage."""
    try:
        yield
    except UserError as error:
        log.warning(
            f"rollout {key}: buys no more answers ahead for teach {teach}, whose stage goes on by "
            f"itself: {error}"
        )


def _counts(buyers: "list[Ahead]") -> dict[str, Any]:
    ledgers = [one.ledger for one in buyers]
    return {
        "ahead_answers": sum(one.bought for one in ledgers),
        "ahead_requests": sum(one.requests for one in ledgers),
        "ahead_tokens_bought": sum(one.tokens_bought for one in ledgers),
        "ahead_tokens_billed": sum(one.tokens_billed for one in ledgers),
        "ahead_usd": round(sum(one.usd for one in ledgers), 6),
        "ahead_forks_moved": sum(one.moved for one in buyers),
    }


def rows(file: int, complete: threading.Event) -> Iterator[Row | None]:
    """The rows as they are written; None where there is nothing more yet."""
    at, rest = 0, b""
    while True:
        over = complete.is_set()  # before the look, so that none is missed
        part = os.pread(file, PART, at)
        at += len(part)
        *lines, rest = (rest + part).split(b"\n")
        yield from map(json.loads, lines)
        if not part:
            if over:
                return
            yield None
            time.sleep(LOOK_SECONDS)


def blocks(file: int, complete: threading.Event) -> Iterator[list[Row]]:
    """The rows that are there, at most BLOCK together."""
    block: list[Row] = []
    for row in rows(file, complete):
        if row is not None:
            block.append(row)
        if block and (row is None or len(block) == BLOCK):
            yield block
            block = []
    if block:
        yield block


class Early(Ledger):
    """Believes no failure rate of few draws: a block may be a single row."""

    def check(self, allowed: float, least: int = 1) -> None:
        super().check(allowed, max(least, LEAST_DRAWS))


class Ahead:
    """Buys for one teach cell. Raises UserError as its stage does."""

    def __init__(self, key: str, store: Store) -> None:
        self.key, self.ledger = key, Early()
        self.moved = 0  # forks that were bought and are not in the table
        self._bought: dict[str, set[int]] = {}  # rollout_id: positions
        teach, placed = (cells.cell(*one)[1] for one in self._checked(key))
        self._placed = cells.params("forks", teach["forks"], ForksParams)
        self._tokenizer = checkpoints.tokenizer(_path(placed, "tokenizer"))
        p, student = cells.params("teach", key, TeachParams), _path(teach, "tokenizer")
        plain = judge(argparse.Namespace(tokenizer=student, teacher=None), p, store)
        judging = dataclasses.replace(plain, ledger=self.ledger)
        lead = template_lead(judging.teacher, student.parent)
        tokenizer = checkpoints.tokenizer(student)
        judging.lacking = lacking(judging.teacher, tokenizer, p.chunk_tokens, lead)
        others = requests.Others(p.seed, p.prompts_per_round) if p.problem == "another" else None
        self._prefixes = requests.Prefixes(judging.teacher, _path(teach, "prompts"), others)
        self._judging = judging

    def _checked(self, key: str) -> Iterator[tuple[str, str]]:
        """Yield the teach cell and its forks cell, whose code is what their locks say."""
        for cell in (("teach", key), ("forks", cells.cell("teach", key)[1]["forks"])):
            cells.check_code(*cell)
            yield cell

    def buy(self, block: list[Row]) -> None:
        """Buy the answers at the forks of rows that have not been bought yet."""
        last = {row["rollout_id"]: row for row in block}
        p = self._placed
        table = pa.Table.from_pylist(list(last.values()), schema=SCHEMA)
        prefixes: dict[str, dict[int, str]] = {name: {} for name in last}
        for fork in forks(table, self._tokenizer, p, p.seed, p.round).to_pylist():
            prefixes[fork["rollout_id"]][fork["position"]] = fork["prefix_text"]
        wanted = []
        for name, own in prefixes.items():
            before = self._bought.get(name, set())
            self.moved += len(before - own.keys())
            new = {position: text for position, text in own.items() if position not in before}
            self._bought[name] = before | own.keys()
            if new:
                wanted.append(self._prefixes.response(last[name], new))
        if wanted:
            self._judging.judge(wanted)


def _path(cell: dict[str, Any], name: str) -> Path:
    return Path(cells.place(cell["reads"][name]))
