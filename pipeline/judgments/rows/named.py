"""What many answers have in common, each under a small number: settings and outcomes."""

import hashlib
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import sqlalchemy as sa

from pipeline.core.errors import UserError
from pipeline.judgments.keys import canonical
from pipeline.judgments.opened import OpenDatabase
from pipeline.judgments.retries import DAMAGED
from pipeline.judgments.schema import OUTCOMES, SETTINGS


class Settings(NamedTuple):
    """What is asked of whom, and how: columns of the table."""

    provider: str
    model: str
    continuation: str
    sampler: str  # canonical JSON
    epoch: int


class Outcome(NamedTuple):
    """How an answer came: columns of the table."""

    ended: bool
    finish_reason: str
    model_returned: str
    failure: str | None
    requested_n: int


T = TypeVar("T", Settings, Outcome)


def digest(value: Settings | Outcome) -> bytes:
    """SHA-256 of the canonical JSON of its values."""
    return hashlib.sha256(canonical(list(value))).digest()


def sound(kind: type[Settings | Outcome], row: Sequence[Any]) -> bool:
    """Whether values have the digest that stands before them."""
    try:
        return bool(digest(kind._make(row[1:])) == row[0])
    except (ValueError, TypeError):  # text that is no UTF-8 any more
        return False


class Named(Generic[T]):
    """A table of such, read once and kept in mind; threads may share it.

    A row that is not what its digest says is damage: raises UserError.
    """

    def __init__(self, database: OpenDatabase, table: sa.Table, kind: type[T]) -> None:
        self._database, self._table = database, table
        self._kind: type[T] = kind
        self._ids: dict[T, int] = {}
        self._values: dict[int, T] = {}

    def find(self, value: T, connection: sa.Connection | None = None) -> int | None:
        """Its number; None where the store has none. `connection`: a transaction to look in."""
        if value not in self._ids:
            self._look(self._table.c.digest == digest(value), connection)
        return self._ids.get(value)

    def number(self, value: T) -> int:
        """Its number, a new one where it has none yet, in a transaction of its own."""
        if (found := self.find(value)) is None:
            row = {"digest": digest(value), **value._asdict()}
            insert = self._database.insert(self._table).values(row)
            self._database.execute(insert.on_conflict_do_nothing())
            found = self.find(value)
        if found is None:
            raise UserError(f"{self._database.name}: the file is damaged: {value}. {DAMAGED}")
        return found

    def value(self, number: int) -> T:
        """What has this number. Raises ValueError where nothing has."""
        if number not in self._values:
            self._look(self._table.c.id == number, None)
        if number not in self._values:
            raise ValueError(f"it names a row of {self._table.name} that is not there: {number}")
        return self._values[number]

    def all(self) -> dict[int, T]:
        """All of them by their numbers."""
        self._look(sa.true(), None)
        return dict(self._values)

    def _look(self, where: sa.ColumnElement[bool], connection: sa.Connection | None) -> None:
        query = sa.select(self._table).where(where)  # id, digest, and its values in their order
        rows = self._database.rows(query) if connection is None else connection.execute(query)
        for row in rows:
            if not sound(self._kind, row[1:]):
                raise UserError(
                    f"{self._database.name}: row {row[0]} of {self._table.name} is damaged: its "
                    f"digest is not that of its values. {DAMAGED}"
                )
            found = self._kind._make(row[2:])
            self._ids[found], self._values[row[0]] = row[0], found


def settings(database: OpenDatabase) -> Named[Settings]:
    """Those of a store."""
    return Named(database, SETTINGS, Settings)


def outcomes(database: OpenDatabase) -> Named[Outcome]:
    """Those of a store."""
    return Named(database, OUTCOMES, Outcome)
