"""A database that is open: its transactions, waited for and tried again, and what they may do."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.core.errors import UserError
from pipeline.judgments import database
from pipeline.judgments.retries import Retries
from pipeline.judgments.schema import EARLIER, MARK, METADATA, VERSION

CHUNK = 500  # keys in one query or transaction
T = TypeVar("T")


class OpenDatabase:
    """The database of a store. Threads may share it.

    Raises UserError, without any password, when it cannot be opened, read or written.
    """

    def __init__(self, url: sa.URL, reached: bool = False) -> None:
        """`reached`: it was before, by another process, so that it is waited for."""
        self.name = database.name(url)
        self.read_only = database.read_only(url)
        self._engine = database.connectable(url)
        self._writer = self._engine.execution_options(write=not self.read_only)
        backend = url.get_backend_name()
        self.dialect = "sqlite" if backend == "sqlite" else "postgresql"
        self.insert: Any = sqlite.insert if backend == "sqlite" else postgresql.insert
        self._writes = Retries(self.name, reached)
        self.url, self.version, self.tables = url, *self._found()
        if backend == "sqlite" and not self.read_only:
            database.use_wal(self._engine, self._writes, self.name)
        # apart: a file that another process keeps locked can still be read
        self._reads = Retries(self.name, reached=True)

    def _found(self) -> database.Found:
        versions = (VERSION, EARLIER)
        return database.check(self._writer, self._writes, self.name, METADATA, MARK, versions)

    def again(self) -> None:
        """Look once more which version it has: another process may have brought it into another."""
        self.version, self.tables = self._found()

    def close(self) -> None:
        self._engine.dispose()

    def hurry(self) -> None:
        """Wait for no error to pass any more: the process is to end."""
        self._reads.hurry()
        self._writes.hurry()

    def rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """The rows of a query; text that is no UTF-8 any more has a surrogate for each such byte,
        so that its row can be named."""
        try:
            return self.read(lambda connection: connection.execute(query).all())
        except UserError as error:
            if "decode to UTF-8" not in str(error):  # as SQLite says it; Postgres checks on entry
                raise
        with self.reading() as connection:
            raw: Any = connection.connection.dbapi_connection
            raw.text_factory = functools.partial(str, encoding="utf-8", errors="surrogateescape")
            try:
                return connection.execute(query).all()
            finally:
                raw.text_factory = str

    def integrity(self, table: str = "") -> str | None:
        """The fault that SQLite finds in its file, or in a table and its index; None where there is
        none, and with Postgres, which keeps checksums of its own."""
        if self.dialect != "sqlite":
            return None
        check = f"PRAGMA integrity_check({table})" if table else "PRAGMA integrity_check"
        with self.reading() as connection:
            found = connection.exec_driver_sql(check).scalars().first()
        return None if found == "ok" else " ".join(str(found).split())  # it may have several lines

    def reading(self) -> AbstractContextManager[sa.Connection]:
        return database.transaction(self._engine, self._reads, self.name)

    def writing(self) -> AbstractContextManager[sa.Connection]:
        self._may_write()
        return database.transaction(self._writer, self._writes, self.name)

    def read(self, action: Callable[[sa.Connection], T]) -> T:
        """The result of an action that only reads. A connection that breaks off runs it again."""
        return database.whole(self._engine, self._reads, self.name, action)

    def write(self, action: Callable[[sa.Connection], T]) -> T:
        self._may_write()
        return database.whole(self._writer, self._writes, self.name, action)

    def execute(self, statement: sa.Executable) -> None:
        self.write(lambda connection: connection.execute(statement))

    def _may_write(self) -> None:
        if self.read_only:
            raise UserError(
                f"judgments at {self.name}: found a file that this process may only read, wanted "
                "one to store answers in. Change its rights or its folder's, or set JUDGMENTS_URL "
                "to another store; what it holds is found all the same (teach.replay: true)."
            )


def chunks(of: Iterable[T]) -> Iterator[list[T]]:
    """Keys or requests in the order they come in, as many as one query takes."""
    stream = iter(of)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk
