"""SQLite or Postgres behind one URL: connect, check that it is ours, report errors plainly.

A process that is stopped in the midst of a transaction keeps its locks. Postgres ends such a
transaction after IDLE_SECONDS; nothing but the process itself can end one of SQLite.

No message holds a password: URLs are rendered with it hidden, and the drivers' own texts, which
may repeat what was sent, are cut to their first line.
"""

import functools
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import exc

from pipeline.core.errors import UserError
from pipeline.judgments import retries
from pipeline.judgments.retries import REMEDY, Retries

LOCK = 260601476  # of the transactions that may create the tables; any number of our own
BUSY_SECONDS = 5  # how long SQLite waits for another process's transaction before another try
# seconds after which Postgres ends the transaction of a client that says nothing, and after which
# it gives up waiting for a lock: the longer one, so that others outlast the stopped client
IDLE_SECONDS, LOCK_SECONDS = 30, 45
# of libpq: a server that does not answer at all is noticed, a URL can say otherwise
ALIVE = {"connect_timeout": 10, "tcp_user_timeout": 60_000}
EFFECTIVE = os.access in os.supports_effective_ids
T = TypeVar("T")


def parse(url: str) -> sa.URL:
    """The URL of a store. Raises UserError if it is no URL of SQLite or Postgres."""
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError):
        # neither the text nor its cause is shown: a malformed URL may hold a password anywhere
        raise UserError(f"JUDGMENTS_URL is not a database URL. {REMEDY}") from None
    if not url.isprintable():
        raise UserError(f"JUDGMENTS_URL: found control characters, wanted none. {REMEDY}")
    if backend == "sqlite" and parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise UserError(f"JUDGMENTS_URL: found {parsed.drivername}, wanted sqlite. {REMEDY}")
    if backend not in ("sqlite", "postgresql"):
        raise UserError(f"JUDGMENTS_URL: found {backend}, wanted sqlite or postgresql. {REMEDY}")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UserError(f"JUDGMENTS_URL: found a store in memory, wanted a file. {REMEDY}")
    if backend == "postgresql" and parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def name(url: sa.URL) -> str:
    """The URL as it may be shown."""
    return url.set(query={}).render_as_string(hide_password=True)


def read_only(url: sa.URL) -> bool:
    """Whether it is a SQLite file that this process may read and not write."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return False
    file = Path(url.database)
    may = functools.partial(os.access, mode=os.W_OK, effective_ids=EFFECTIVE)
    return file.is_file() and not (may(file) and may(file.parent))


def _unwritten(url: sa.URL) -> sa.URL:
    """The URL that opens such a file as it is.

    Without a WAL beside it nobody writes it now, and SQLite need not make files beside it.
    """
    assert url.database is not None
    file = Path(url.database)
    wal = file.with_name(f"{file.name}-wal")
    still = {} if wal.is_file() and wal.stat().st_size else {"immutable": "1"}
    return url.set(
        database=f"file:{quote(str(file))}", query={"mode": "ro", "uri": "true", **still}
    )


def connectable(url: sa.URL) -> sa.Engine:
    """An engine whose write transactions (execution option `write`) lock at their start."""
    if url.get_backend_name() != "sqlite":
        libpq = url.drivername in ("postgresql+psycopg", "postgresql+psycopg2")
        alive = {k: value for k, value in ALIVE.items() if libpq and k not in url.query}
        try:
            engine = sa.create_engine(url, pool_pre_ping=True, connect_args=alive)
        except (ModuleNotFoundError, exc.NoSuchModuleError) as error:
            raise UserError(
                f"judgments at {name(url)}: its driver is not installed. "
                "Run `pip install 'omniopd-pipeline[postgres]'`."
            ) from error
        if libpq:
            sa.event.listen(engine, "connect", _prepare_postgres)
        return engine
    if read_only(url):
        url = _unwritten(url)
    elif url.database:
        Path(url.database).expanduser().absolute().parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _prepare_postgres(connection: Any, _record: Any) -> None:
    connection.autocommit = True  # else the settings would go with the first rollback
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
        cursor.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.autocommit = False


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # sqlite3 begins nothing by itself; _begin does
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    # With WAL, a killed process loses nothing that it committed: the pages are the kernel's by
    # then. Only a crash of the machine can lose the last transactions, never corrupt the file.
    connection.execute("PRAGMA synchronous = NORMAL")


def use_wal(engine: sa.Engine, waiting: Retries, shown: str) -> None:
    """Switch a SQLite file to WAL; the file keeps it, so only after it is known to be ours.

    SQLite does not wait here: a process that switches the same new file makes this one fail.
    """

    def switch() -> None:
        with closing(engine.raw_connection()) as connection:
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                raise exc.OperationalError(None, None, error) from error

    with _told(shown):
        waiting.call(switch)


def _begin(connection: sa.Connection) -> None:
    # IMMEDIATE: two readers that both go on to write would deadlock into SQLITE_BUSY
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def now(connection: sa.Connection) -> float:
    """Seconds since 1970 by the database's own clock, which all who share it have in common."""
    asked = (
        "select (julianday('now') - 2440587.5) * 86400.0"
        if connection.dialect.name == "sqlite"
        else "select extract(epoch from clock_timestamp())"
    )
    return float(connection.exec_driver_sql(asked).scalar_one())


class Refused(UserError):
    """A row that the table's rules do not allow: another try would meet the same."""


@contextmanager
def transaction(engine: sa.Engine, waiting: Retries, shown: str) -> Iterator[sa.Connection]:
    """All or nothing; its begin is waited for. Raises UserError with what the database said."""
    with _told(shown), ExitStack() as stack:
        yield waiting.call(lambda: stack.enter_context(engine.begin()))


def whole(
    engine: sa.Engine, waiting: Retries, shown: str, action: Callable[[sa.Connection], T]
) -> T:
    """The result of `action` in a transaction, all of it tried again after errors that may pass.

    A connection that breaks off while a transaction is committed leaves it unknown whether it was:
    `action` may be run again after it succeeded. Raises UserError with what the database said.
    """

    def once() -> T:
        with engine.begin() as connection:
            return action(connection)

    with _told(shown):
        return waiting.call(once)


@contextmanager
def _told(shown: str) -> Iterator[None]:
    try:
        yield
    except (exc.IntegrityError, exc.DataError) as error:
        raise Refused(
            f"judgments at {shown}: a row breaks the table's rules ({retries.reason(error)}). "
            "Nothing of its transaction was stored. Please report this: it is a mistake in the "
            "program."
        ) from error
    except exc.SQLAlchemyError as error:
        raise UserError(
            f"judgments at {shown}: {retries.reason(error)}. {retries.remedy(error)}"
        ) from error
    except UnicodeDecodeError as error:  # SQLite names what it read, and sqlite3 decodes that
        raise UserError(
            f"judgments at {shown}: the file is damaged: its schema is no text. {retries.RESTORE}"
        ) from error


class Found(NamedTuple):
    """What an opened database holds."""

    version: int
    tables: frozenset[str]


def check(
    engine: sa.Engine,
    waiting: Retries,
    shown: str,
    metadata: sa.MetaData,
    mark: sa.Table,
    versions: Sequence[int],
) -> Found:
    """Make the tables in an empty database, or raise UserError unless they are ours.

    `mark` is a table of one row that holds the version: `versions`, the newest first, can be read.
    """
    with transaction(engine, waiting, shown) as connection:
        if connection.dialect.name == "postgresql":  # one at a time makes the tables
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        found = set(sa.inspect(connection).get_table_names())
        if not found:
            metadata.create_all(connection)
            connection.execute(mark.insert().values(version=versions[0]))
            return Found(versions[0], frozenset(metadata.tables))
        if mark.name not in found:
            raise UserError(
                f"judgments at {shown}: not a judgment store, it holds {sorted(found)[:3]}. "
                f"{REMEDY}"
            )
        stored = connection.execute(sa.select(mark.c.version)).scalar()
    if stored is None or stored not in versions:
        raise UserError(
            f"judgments at {shown}: version {stored}, wanted {versions[0]}. "
            "Use the release of omniopd-pipeline that wrote it, or a new store."
        )
    return Found(int(stored), frozenset(found))
