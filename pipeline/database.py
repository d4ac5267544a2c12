"""The database behind the judgment store: tables, connection, transactions, refusals.

One code path for SQLite and Postgres. Errors name the URL without password or query.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite

SCHEMA = 1  # version of the tables below
BUSY_SECONDS = 60  # how long SQLite waits for another process's transaction
FORMS = "sqlite:////path/to/file or postgresql+psycopg://user:password@host/database"
NEW_STORE = "Set JUDGMENTS_URL to a new file or an empty database"

_metadata = sa.MetaData()
VERSION = sa.Table(
    "omniopd_judgments",
    _metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)
JUDGMENTS = sa.Table(
    "judgments",
    _metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("token_limit", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sample", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("token_ids", sa.Text),  # JSON list
    sa.Column("ended", sa.Boolean, nullable=False),
    sa.Column("finish_reason", sa.String(16), nullable=False),
    sa.Column("model_returned", sa.Text, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("failure", sa.Text),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("requested_n", sa.Integer, nullable=False),
    sa.Column("seed_sent", sa.BigInteger),
    sa.Column("created_at", sa.Double, nullable=False),  # seconds since 1970, UTC
)
CLAIMS = sa.Table(
    "claims",
    _metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),  # seconds since 1970, UTC
)


class Database:
    """An open database that holds our tables, made if it was empty.

    Raises UserError if it cannot be opened, read or written, is damaged, or is not ours.
    """

    def __init__(self, url: str) -> None:
        self._url = _parse(url)
        self.name = self._url.set(query={}).render_as_string(hide_password=True)
        self._reader = self._engine()
        self._writer = self._reader.execution_options(write=True)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._reader.dispose()

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An insert that knows `on conflict`."""
        if self._reader.dialect.name == "sqlite":
            return sqlite.insert(table)
        return postgresql.insert(table)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with self._explained(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction: all of the block or nothing."""
        with self._explained(), self._writer.begin() as connection:
            yield connection

    def _engine(self) -> sa.Engine:
        try:
            engine = sa.create_engine(self._url, hide_parameters=True)
        except (exc.NoSuchModuleError, ModuleNotFoundError):
            self._refuse(f"no driver is installed for {self._url.drivername}. Use {FORMS}")
        dialect = engine.dialect
        if dialect.name not in ("sqlite", "postgresql") or dialect.is_async:
            self._refuse(f"{self._url.drivername} is not supported. Use {FORMS}")
        if dialect.name == "sqlite":
            if self._url.database in (None, "", ":memory:"):
                self._refuse(f"a store in memory is shared with nobody. Use {FORMS}")
            sa.event.listen(engine, "connect", _configure)
            sa.event.listen(engine, "begin", _begin)
        return engine

    def _open(self) -> None:
        with self.reading() as connection:
            names = sa.inspect(connection).get_table_names()
        if not names:
            self._create()
        elif VERSION.name not in names:
            self._refuse(f"another program's database, with tables {names[:5]}. {NEW_STORE}")
        with self.reading() as connection:
            versions = connection.execute(sa.select(VERSION.c.version)).scalars().all()
        if not versions:
            self._refuse(f"damaged: it has no version. Restore it from a backup. {NEW_STORE}")
        if max(versions) != SCHEMA:
            self._refuse(
                f"version {max(versions)}, wanted {SCHEMA}. Install the omniopd that wrote it. "
                f"{NEW_STORE}"
            )
        if self._reader.dialect.name == "sqlite":
            self._use_wal()

    def _create(self) -> None:
        try:
            with self._writer.begin() as connection:
                _metadata.create_all(connection)
                version = self.insert(VERSION).values(version=SCHEMA)
                connection.execute(version.on_conflict_do_nothing())
        except (exc.IntegrityError, exc.ProgrammingError):
            pass  # Postgres: another process made the tables meanwhile; the version says whose
        except exc.DatabaseError as error:
            self._refuse(self._reason(error))

    def _use_wal(self) -> None:
        """Kept in the file, so only once it is known to be ours; not allowed in a transaction."""
        with self._explained(), closing(self._reader.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA journal_mode=WAL")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (exc.IntegrityError, exc.DataError):
            raise  # a row that breaks the tables' rules: our own mistake
        except exc.DatabaseError as error:
            self._refuse(self._reason(error))

    def _reason(self, error: exc.DatabaseError) -> str:
        """The driver's words, less whatever the URL keeps secret, and what to do."""
        words = " ".join(str(error.orig).split())
        hidden = [self._url.password, *self._url.query.values()]
        for secret in hidden:
            if isinstance(secret, str) and secret:
                words = words.replace(secret, "***")
        return (
            f"{words}. Check that it can be reached and written and that its disk has room; "
            f"if it is damaged, restore it from a backup. {NEW_STORE}"
        )
