"""The ledger: what was looked up in a store, what was bought, and what it cost.

Each project's total is kept in the transactions that enter its lines, so that a budget reads a few
rows, however long the ledger is.
"""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.judgments.schema import COUNTS, ENTRIES, TOTALS

# rows of a project's total; each open store adds to one. Of two that add to the same row of
# Postgres one waits until the other has committed
PARTS = 16
CENTS = 1e-9  # share of a sum by which the order of its terms may change it


@dataclass(frozen=True)
class Entry:
    """A line of the ledger: what was looked up, or what a reply brought and cost."""

    reused: int = 0  # answers that the store had
    misses: int = 0  # and those that it had not
    bought: int = 0
    requests: int = 0  # sent, retries included
    tokens: int = 0  # prompt and completion, as billed
    usd: float = 0.0


ENTRY = (*COUNTS, "usd")
SUMS = ("entries", *ENTRY)  # columns of a total


@dataclass(frozen=True)
class Counts:
    """The answers that a store holds, and its use by its ledger."""

    answers: int  # failures included
    failures: int
    bought: int  # by runs against this store; the rest was imported
    reused: int
    misses: int
    requests: int
    tokens: int
    usd: float


class Ledger:
    """Where one open store enters its lines."""

    def __init__(self, insert: Callable[[sa.Table], Any]) -> None:
        """`insert` is the database's own, which can say what to do on a conflict."""
        self._part = random.SystemRandom().randrange(PARTS)
        # made once: they are executed for each reply
        self._line, statement = ENTRIES.insert(), insert(TOTALS)
        more = {name: TOTALS.c[name] + statement.excluded[name] for name in SUMS}
        where = ["project", "part"]
        self._add = statement.on_conflict_do_update(index_elements=where, set_=more)

    def enter(self, connection: sa.Connection, line: Mapping[str, Any]) -> None:
        """Enter a line and add it to its project's total, in a transaction."""
        connection.execute(self._line, line)
        row = {name: line[name] for name in ("project", *ENTRY)}
        connection.execute(self._add, row | {"part": self._part, "entries": 1})


def entered(connection: sa.Connection, line: Mapping[str, Any]) -> bool:
    """Whether the ledger has this line."""
    same = (ENTRIES.c[name] == value for name, value in line.items())
    return connection.execute(sa.select(ENTRIES.c.id).where(*same)).first() is not None


def total(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> Entry:
    """All totals that `where` is true of, added up."""
    columns = (sa.func.coalesce(sa.func.sum(TOTALS.c[name]), 0).label(name) for name in ENTRY)
    row = connection.execute(sa.select(*columns).where(*where)).mappings().one()
    counts = {name: int(row[name]) for name in ENTRY if name != "usd"}  # Postgres: decimals
    return Entry(**counts, usd=float(row["usd"]))


def disagreeing(connection: sa.Connection) -> list[str]:
    """Projects whose total is not the sum of their lines. One statement, so that it sees one state
    of a store that is written to."""
    lines = [sa.literal(1).label("entries"), *(ENTRIES.c[name] for name in ENTRY)]
    less = [(-TOTALS.c[name]).label(name) for name in SUMS]
    both = sa.union_all(
        sa.select(ENTRIES.c.project, *lines), sa.select(TOTALS.c.project, *less)
    ).subquery()
    sums = [sa.func.sum(both.c[name]) for name in SUMS]
    size = sa.func.sum(sa.func.abs(both.c.usd))
    query = sa.select(both.c.project, size, *sums).group_by(both.c.project)
    return [
        str(project)
        for project, whole, *counts, usd in connection.execute(query.order_by(both.c.project))
        if any(counts) or not math.isclose(whole + usd, whole, rel_tol=CENTS, abs_tol=CENTS)
    ]


def recount(connection: sa.Connection) -> None:
    """Make the totals anew from the lines, in a transaction that keeps others from entering."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("LOCK TABLE entries, totals IN SHARE ROW EXCLUSIVE MODE"))
    connection.execute(TOTALS.delete())
    sums = (sa.func.sum(ENTRIES.c[name]) for name in ENTRY)
    lines = sa.select(ENTRIES.c.project, sa.literal(0), sa.func.count(), *sums)
    names = ["project", "part", *SUMS]
    connection.execute(TOTALS.insert().from_select(names, lines.group_by(ENTRIES.c.project)))
