"""Repair a damaged judgment store: what can be repaired for nothing, the rest only if told to.

A bit that flipped is put back where a checksum proves which it was. An index that disagrees with
its table is built anew, counts and totals are made anew from what they count. What is left can only
be bought again, so it stays until it is dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from tqdm import tqdm

from pipeline.core.errors import UserError
from pipeline.judgments import archive, ledger
from pipeline.judgments.database import Refused
from pipeline.judgments.retries import RESTORE
from pipeline.judgments.rows import named, places, writing
from pipeline.judgments.rows.reading import HOMELESS, WRONG, Prefix
from pipeline.judgments.schema import ANSWERS, OUTCOMES, PREFIXES, SETTINGS
from pipeline.judgments.store import Store
from pipeline.judgments.sums import flips

NAMES = tuple(column.name for column in ANSWERS.columns)
NAMED: tuple[tuple[sa.Table, Any], ...] = (
    (SETTINGS, named.Settings),
    (OUTCOMES, named.Outcome),
)
OF_PREFIX = ("prompt", "settings", "attempt", "first_seed", "token_limit")


@dataclass(frozen=True)
class Damaged:
    """A row that is not what it was."""

    row: tuple[Any, ...]  # all columns of an answer
    name: str
    why: str

    @property
    def usd(self) -> float:
        """The dollars that the answer cost, as far as the row can be believed."""
        found = self.row[NAMES.index("usd")]
        return found if isinstance(found, float) and 0 <= found < 1e6 else 0.0


@dataclass(frozen=True)
class Repaired:
    """Counts of a repair: rows that were looked at, and what came of them."""

    rows: int
    reindexed: bool
    repaired: list[Damaged]
    damaged: list[Damaged]  # and could not be repaired
    recounted: int = 0  # prefixes whose number of answers was another one
    totals: tuple[str, ...] = ()  # projects whose total was not the sum of its lines


def repair(store: Store) -> Repaired:
    """Repair what can be repaired. Raises UserError where the file is past it."""
    reindexed = _reindexed(store)
    _named(store)
    repaired: list[Damaged] = []
    damaged: list[Damaged] = []
    count = 0
    for rows, prefixes in tqdm(store.rows.raw(), desc="repair", unit="chunk", disable=None):
        count += len(rows)
        for row in rows:
            number = places.parted(row[0])[0]
            if not _fault(store, prefixes.get(number), row):
                continue
            prefix = store.rows.prefix(number)  # as it is since its last answer was looked at
            if why := _fault(store, prefix, row):
                found = Damaged(tuple(row), store.rows.name(prefix, row), why)
                (repaired if _repaired(store, prefix, row) else damaged).append(found)
    return Repaired(count, reindexed, repaired, damaged, _recounted(store), _totals(store))


def drop(store: Store, damaged: list[Damaged]) -> int:
    """Remove these rows; returns how many."""
    with store.database.writing() as connection:
        gone = ANSWERS.delete().where(ANSWERS.c.id == sa.bindparam("this"))
        count = sum(connection.execute(gone, {"this": d.row[0]}).rowcount for d in damaged)
    _recounted(store)
    _without_answers(store)
    return count


def _without_answers(store: Store) -> None:
    """Remove settings and outcomes that are damaged, with prefixes that are of no settings: no
    answer needs them any more."""
    for table, kind in NAMED:
        query = sa.select(table.c.id, *(table.c[name] for name in ("digest", *kind._fields)))
        for row in store.database.rows(query):
            if not named.sound(kind, row[1:]):
                store.database.execute(table.delete().where(table.c.id == row[0]))
    of_none = PREFIXES.c.settings.not_in(sa.select(SETTINGS.c.id))
    store.database.execute(PREFIXES.delete().where(of_none, PREFIXES.c.answers == 0))


def _fault(store: Store, prefix: Prefix | None, row: Sequence[Any]) -> str | None:
    if prefix is None:
        return HOMELESS
    try:
        return archive.fault(store.rows.judgment(prefix, row))
    except WRONG as error:
        return str(error)
    except UserError:  # a row of these is damaged, which other answers share
        return "its settings or its outcome are damaged"


def _repaired(store: Store, prefix: Prefix | None, row: Sequence[Any]) -> bool:
    """Put the one flipped bit back, of the row or of its prefix; whether there was one, and nothing
    else is in the way."""
    for i, name in enumerate(NAMES):
        for other in flips(row[i]):
            tried = [*row[:i], other, *row[i + 1 :]]
            home = prefix if name != "id" else store.rows.prefix(places.parted(other)[0])
            if home is not None and _fault(store, home, tried) is None:
                return _put(store, ANSWERS, row[0], name, other)
    if prefix is not None:
        for name in OF_PREFIX:
            for other in flips(getattr(prefix, name)):
                if _fault(store, prefix._replace(**{name: other}), row) is None:
                    return _put(store, PREFIXES, prefix.id, name, other)
    return False


def _put(store: Store, table: sa.Table, number: int, name: str, value: Any) -> bool:
    change = table.update().where(table.c.id == number).values({name: value})
    try:
        return store.database.write(lambda connection: connection.execute(change).rowcount) == 1
    except Refused:  # another row is there already
        return False


def _named(store: Store) -> None:
    """Repair settings and outcomes, each by its own digest; one that cannot be repaired stays, and
    its answers are damaged with it."""
    for table, kind in NAMED:
        names = ("digest", *kind._fields)
        query = sa.select(table.c.id, *(table.c[name] for name in names))
        for row in store.database.rows(query):
            values = row[1:]
            for i, name in enumerate(names if not named.sound(kind, values) else ()):
                for other in flips(values[i]):
                    if named.sound(kind, [*values[:i], other, *values[i + 1 :]]):
                        _put(store, table, row[0], name, other)


def _recounted(store: Store) -> int:
    """Write down anew how many answers prefixes have, where it was another number."""
    with store.database.writing() as connection:
        found = connection.execute(writing.counted()).all()
        for number, n in found:
            connection.execute(PREFIXES.update().where(PREFIXES.c.id == number).values(answers=n))
    return len(found)


def _totals(store: Store) -> tuple[str, ...]:
    """Add up the ledger anew where a total is not the sum of its lines."""
    with store.database.writing() as connection:
        if projects := ledger.disagreeing(connection):
            ledger.recount(connection)
    return tuple(projects)


def _reindexed(store: Store) -> bool:
    """Build the indexes of a SQLite file anew where they do not fit the tables."""
    if store.database.integrity() is None:
        return False
    with store.database.writing() as connection:
        connection.exec_driver_sql("REINDEX")
    if why := store.database.integrity():
        raise UserError(f"{store.name}: the file is damaged: {why}. {RESTORE}")
    return True
