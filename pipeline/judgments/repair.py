"""Repair a damaged judgment store: what can be repaired for nothing, the rest only if told to.

A bit that flipped is put back where the checksum proves which it was. An index that disagrees with
its table is built anew. What is left can only be bought again, so it stays until it is dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from tqdm import tqdm

from pipeline.core.errors import UserError
from pipeline.judgments import archive, sums
from pipeline.judgments.opened import CHUNK
from pipeline.judgments.retries import RESTORE
from pipeline.judgments.schema import JUDGMENTS, NAMES, judgment
from pipeline.judgments.store import Store

ROWID = sa.literal_column("judgments.rowid", sa.Integer)  # SQLite: a damaged key names no row


@dataclass(frozen=True)
class Damaged:
    """A row that is not what it was."""

    row: tuple[Any, ...]  # all columns
    why: str
    where: tuple[sa.ColumnElement[bool], ...]  # this row and no other

    @property
    def usd(self) -> float:
        """The dollars that the answer cost, as far as the row can be believed."""
        found = self.row[NAMES.index("usd")]
        return found if isinstance(found, float) and 0 <= found < 1e6 else 0.0

    @property
    def name(self) -> str:
        return f"{str(self.row[0])[:12]} of {self.row[2]} {self.row[3]}"


@dataclass(frozen=True)
class Repaired:
    """Counts of a repair: rows that were looked at, and what came of them."""

    rows: int
    reindexed: bool
    repaired: list[Damaged]
    damaged: list[Damaged]  # and could not be repaired


def repair(store: Store) -> Repaired:
    """Repair what can be repaired. Raises UserError where the file is past it."""
    reindexed = _reindexed(store)
    repaired: list[Damaged] = []
    damaged: list[Damaged] = []
    count = 0
    for row, where in tqdm(_rows(store), desc="repair", unit="answer", disable=None):
        count += 1
        if why := _fault(row):
            found = Damaged(row, why, where)
            (repaired if _repaired(store, found) else damaged).append(found)
    return Repaired(count, reindexed, repaired, damaged)


def drop(store: Store, damaged: list[Damaged]) -> int:
    """Remove these rows; returns how many."""
    with store.database.writing() as connection:
        return sum(connection.execute(JUDGMENTS.delete().where(*d.where)).rowcount for d in damaged)


def _fault(row: tuple[Any, ...]) -> str | None:
    try:
        return archive.fault(judgment(row), str(row[-1]))
    except (ValueError, TypeError) as error:
        return str(error)


def _repaired(store: Store, found: Damaged) -> bool:
    """Put the one flipped bit back; whether there was one, and no other row is in the way."""
    place = sums.flipped(found.row[:-1], found.row[-1])
    if place is None:
        return False
    row = [*found.row[: place[0]], place[1], *found.row[place[0] + 1 :]]
    if _fault(tuple(row)):
        return False
    with store.database.writing() as connection:
        same = [JUDGMENTS.c[name] == row[NAMES.index(name)] for name in ("key", "token_limit")]
        moves = NAMES[place[0]] in ("key", "token_limit")
        if moves and connection.execute(sa.select(JUDGMENTS.c.key).where(*same)).first():
            return False
        change = JUDGMENTS.update().where(*found.where).values({NAMES[place[0]]: place[1]})
        return connection.execute(change).rowcount == 1


def _rows(store: Store) -> Iterator[tuple[tuple[Any, ...], tuple[sa.ColumnElement[bool], ...]]]:
    """Every row with what finds it again: by its key in Postgres, which no flip reaches unseen."""
    with store.database.reading() as connection:
        lite = connection.dialect.name == "sqlite"
    order = [ROWID] if lite else [JUDGMENTS.c.key, JUDGMENTS.c.token_limit]
    query = sa.select(*order, JUDGMENTS).order_by(*order).limit(CHUNK)
    last: tuple[Any, ...] = (-(2**63),) if lite else ("", 0)
    while rows := store.database.rows(query.where(sa.tuple_(*order) > last)):
        for row in rows:
            last = tuple(row[: len(order)])
            here = (column == value for column, value in zip(order, last, strict=True))
            yield tuple(row[len(order) :]), tuple(here)


def _reindexed(store: Store) -> bool:
    """Build the indexes of a SQLite file anew where they do not fit the tables."""
    if store.database.integrity() is None:
        return False
    with store.database.writing() as connection:
        connection.exec_driver_sql("REINDEX")
    if why := store.database.integrity():
        raise UserError(f"{store.name}: the file is damaged: {why}. {RESTORE}")
    return True
