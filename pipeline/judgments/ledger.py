"""The ledger: what was looked up in a store, what was bought, and what it cost."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.judgments.schema import LEDGER


@dataclass(frozen=True)
class Entry:
    """A line of the ledger: what was looked up, or what a reply brought and cost."""

    reused: int = 0  # answers that the store had
    misses: int = 0  # and those that it had not
    bought: int = 0
    requests: int = 0  # sent, retries included
    tokens: int = 0  # prompt and completion, as billed
    usd: float = 0.0


ENTRY = tuple(Entry.__dataclass_fields__)


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


def entered(connection: sa.Connection, paid: dict[str, Any]) -> bool:
    """Whether the ledger has this line."""
    same = (LEDGER.c[name] == value for name, value in paid.items())
    return connection.execute(sa.select(LEDGER.c.id).where(*same)).first() is not None


def total(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> Entry:
    """All lines of the ledger that `where` is true of, added up."""
    columns = (sa.func.coalesce(sa.func.sum(LEDGER.c[name]), 0).label(name) for name in ENTRY)
    row = connection.execute(sa.select(*columns).where(*where)).mappings().one()
    counts = {name: int(row[name]) for name in ENTRY if name != "usd"}  # Postgres: decimals
    return Entry(**counts, usd=float(row["usd"]))
