"""A store of version 2 is brought into the tables of today, where it lies.

Batch by batch: rows are read and held against their checksums, written, read back and compared, and
then counted as done. Until the last transaction the old rows are what counts, and none of them is
changed, so a process that is killed loses nothing, and the next one goes on from its last batch.
That transaction compares the numbers, adds up the ledger, takes the old tables' names away and sets
the version; then the old rows are removed.

A process of an older release that has the store open meanwhile may still add: to SQLite until the
last transaction, whose rows come last; on Postgres it waits. After it such a process finds its
tables gone, and what it was sent goes to its `.spool/`, which is read here.
"""

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tqdm import tqdm

from pipeline.core.errors import UserError
from pipeline.judgments import ledger
from pipeline.judgments.earlier import layout, lock
from pipeline.judgments.earlier.compared import check
from pipeline.judgments.earlier.layout import JUDGMENTS, Cursor
from pipeline.judgments.opened import OpenDatabase
from pipeline.judgments.rows.reading import Reader
from pipeline.judgments.rows.writing import Writer
from pipeline.judgments.schema import (
    ANSWERS,
    EARLIER,
    ENTRIES,
    MARK,
    OUTCOMES,
    PREFIXES,
    SETTINGS,
    TOTALS,
    VERSION,
    Judgment,
)

BATCH = 2000  # answers; what is held in memory
SHARE = 0.5  # of the old rows' bytes that the new ones take at most
NAMED = 20  # damaged answers that are told by name
GONE = "judgments_2"  # what is left to be removed
PROGRESS = sa.Table(
    "migration",
    sa.MetaData(),
    sa.Column("after", sa.Text, nullable=False),  # JSON: the last row that is done
    sa.Column("done", sa.BigInteger, nullable=False),
    sa.Column("dropped", sa.BigInteger, nullable=False),
)
log = logging.getLogger("omniopd")


def bring(database: OpenDatabase, drop_damaged: bool = False) -> None:
    """Bring an open store of version 2 into today's, or wait for who does.

    `drop_damaged`: leave out answers that are damaged and cannot be repaired. Raises UserError for
    them otherwise, and where there is no room for the new rows; then nothing is changed.
    """
    if database.version == EARLIER and database.read_only:
        raise UserError(
            f"judgments at {database.name}: version {EARLIER}, wanted {VERSION}, in a file that "
            "this process may only read. Have who may write to it run `omniopd judgments stats` "
            "with this release, or copy it and set JUDGMENTS_URL to the copy."
        )
    if database.version == EARLIER:
        with lock.held(database, lambda: _state(database)) as connection:
            database.again()
            told = None
            if database.version == EARLIER:
                told = _Migration(database, connection, drop_damaged).run()
        database.again()
        if told:
            log.warning(told)
    if GONE in database.tables and not database.read_only:
        database.execute(sa.text(f"DROP TABLE IF EXISTS {GONE}"))


def _state(database: OpenDatabase) -> str:
    """How far another process is."""
    with database.reading() as connection:
        tables = sa.inspect(connection).get_table_names()
        done = None
        if PROGRESS.name in tables:
            done = connection.execute(sa.select(PROGRESS.c.done)).scalar()
    return f"{done or 0:,} answers are done"


@dataclass
class _Migration:
    database: OpenDatabase
    held: sa.Connection | None  # Postgres: the transaction that keeps others from writing
    drop_damaged: bool
    repaired: int = 0
    reader: Reader = field(init=False)
    writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        self.reader = Reader(self.database)
        self.writer = Writer(self.database, self.reader)

    def run(self) -> str:
        """What came of it, in words. Raises UserError."""
        begin = time.monotonic()
        if self.held is not None:  # writers of an older release wait, or keep it in their spools
            self.held.exec_driver_sql(f"LOCK TABLE judgments, {layout.LEDGER} IN SHARE MODE")
        rows = self._rows()
        after, done, dropped = self._progress()
        need, free = self._room(rows, rows - done - dropped)
        self._tables()
        # no warning, but to be seen where no log is set up, as on the command line
        log.warning(
            f"judgments at {self.database.name}: {rows - done - dropped:,} of {rows:,} answers are "
            f"brought from version {EARLIER} into version {VERSION}. That takes up to "
            f"{need / 1e9:.2f} GB more of the disk{free}. It may be broken off: the next run goes "
            "on. A release before this one cannot open the store afterwards."
        )
        with tqdm(total=rows, initial=done + dropped, desc="judgments", disable=None) as bar:
            while True:
                while found := self._batch(after):
                    after, more, less = found
                    done, dropped = done + more, dropped + less
                    self._save(after, done, dropped)
                    bar.update(more + less)
                if self._finished(after, done, dropped):
                    break
        repaired = f", {self.repaired:,} of them repaired" * bool(self.repaired)
        left = f", {dropped:,} damaged ones left out" * bool(dropped)
        return (
            f"judgments at {self.database.name}: {done:,} answers{repaired}{left} are in version "
            f"{VERSION}, in {time.monotonic() - begin:.0f} s. `omniopd judgments gc` gives the "
            "space of the old ones back."
        )

    def _rows(self) -> int:
        with self.database.reading() as connection:
            count = sa.select(sa.func.count()).select_from(JUDGMENTS)
            return int(connection.execute(count).scalar_one())

    def _room(self, rows: int, rest: int) -> tuple[float, str]:
        """Bytes that the rest of the rows will take, and how many are free, in words. Raises
        UserError where these are fewer."""
        share = SHARE * rest / max(1, rows)
        if self.held is not None:
            size = self.held.exec_driver_sql("SELECT pg_total_relation_size('judgments')")
            return share * float(size.scalar_one()), ""
        path = Path(self.database.url.database or "").expanduser()
        need, free = share * path.stat().st_size, shutil.disk_usage(path.parent).free
        if free < need:
            raise UserError(
                f"judgments at {self.database.name}: found {free / 1e9:.2f} GB free, wanted "
                f"{need / 1e9:.2f} GB to bring {rest:,} of its {rows:,} answers from version "
                f"{EARLIER} into version {VERSION}. Nothing was changed. Free space, or copy the "
                "file to a larger disk and set JUDGMENTS_URL to the copy."
            )
        return need, f", which has {free / 1e9:.2f} GB"

    def _tables(self) -> None:
        def make(connection: sa.Connection) -> None:
            for table in (SETTINGS, OUTCOMES, PREFIXES, ANSWERS, TOTALS, PROGRESS):
                table.create(connection, checkfirst=True)

        self.database.write(make)

    def _progress(self) -> tuple[Cursor, int, int]:
        """Where a process that was broken off left it: the last row that is done, and counts."""
        start = layout.start(self.database.dialect)
        begun = PROGRESS.name in self.database.tables
        if not begun or not (found := self.database.rows(sa.select(PROGRESS))):
            return start, 0, 0
        after, done, dropped = tuple(json.loads(found[0].after)), found[0].done, found[0].dropped
        if self.held is not None:
            # what an older release has added since may lie among what is done: it is done again
            count = sa.select(sa.func.count()).select_from(JUDGMENTS)
            behind = count.where(sa.tuple_(*layout.KEYS) <= after)
            if self.held.execute(behind).scalar_one() != done + dropped:
                return start, 0, 0
        return after, done, dropped

    def _save(self, after: Cursor, done: int, dropped: int) -> None:
        row = {"after": json.dumps(after), "done": done, "dropped": dropped}

        def save(connection: sa.Connection) -> None:
            connection.execute(PROGRESS.delete())
            connection.execute(PROGRESS.insert().values(row))

        self.database.write(save)

    def _batch(self, after: Cursor) -> tuple[Cursor, int, int] | None:
        """The next batch written and compared: its last row, and how many were written and left
        out; None behind the last one."""
        dialect = self.database.dialect
        rows = [
            layout.parted(dialect, row)
            for row in self.database.rows(layout.batch(dialect, after, BATCH))
        ]
        if not rows:
            return None
        sound = [found for _, row in rows if (found := self._sound(row)) is not None]
        ready = self.writer.ready(sound)
        self.database.write(lambda connection: self.writer.insert(connection, ready))
        check(self.database, self.reader, sound)
        return rows[-1][0], len(sound), len(rows) - len(sound)

    def _sound(self, row: Sequence[Any]) -> Judgment | None:
        """The answer, repaired where its checksum proves how; None for one that is left out."""
        try:
            return layout.judgment(row)
        except (ValueError, TypeError) as error:
            if (found := layout.repaired(row)) is not None:
                self.repaired += 1
                log.warning(f"repaired: {_name(row)}: {error}")
                return found
            if not self.drop_damaged:
                raise self._damage() from error
            log.warning(f"left out: {_name(row)}: {error}")
            return None

    def _damage(self) -> UserError:
        """What to say of all answers that are damaged."""
        count, usd, first = 0, 0.0, ""
        for rows in layout.stream(self.database, BATCH):
            for _, row in rows:
                try:
                    layout.judgment(row)
                except (ValueError, TypeError) as error:
                    if layout.repaired(row) is not None:
                        continue
                    count, usd = count + 1, usd + _usd(row)
                    first = first or f"{_name(row)}: {error}"
                    if count <= NAMED:
                        log.warning(f"damaged: {_name(row)}: {error}")
        return UserError(
            f"{self.database.name}: {count} answers of version {EARLIER} are damaged, and cost "
            f"${usd:.4f} when they were bought; the first is {first}. None was removed. Restore "
            "the store from a copy, or run `omniopd judgments repair --drop-damaged`: it brings "
            f"the others into version {VERSION} and leaves these out, and the next run that needs "
            "them buys them again; `omniopd judgments import FILE` brings them back from an export "
            "for nothing."
        )

    def _finished(self, after: Cursor, done: int, dropped: int) -> bool:
        """The last transaction; False where an older release has added rows meanwhile."""
        if self.held is not None:
            return self._switch(self.held, after, done, dropped)
        with self.database.writing() as connection:
            return self._switch(connection, after, done, dropped)

    def _switch(self, connection: sa.Connection, after: Cursor, done: int, dropped: int) -> bool:
        if connection.execute(layout.batch(self.database.dialect, after, 1)).first():
            return False
        old, new, counted = (
            int(connection.execute(query).scalar_one())
            for query in (
                sa.select(sa.func.count()).select_from(JUDGMENTS),
                sa.select(sa.func.count()).select_from(ANSWERS),
                sa.select(sa.func.coalesce(sa.func.sum(PREFIXES.c.answers), 0)),
            )
        )
        if not (old == done + dropped and new == counted == done):
            raise UserError(
                f"{self.database.name}: found {new:,} answers in version {VERSION}, counted as "
                f"{counted:,}, wanted {done:,} of the {old:,} of version {EARLIER}. Nothing was "
                "removed. Please report this: it is a mistake in the program."
            )
        for statement in (
            f"ALTER TABLE judgments RENAME TO {GONE}",
            f"DROP INDEX {layout.LEDGER_INDEX}",
            f"ALTER TABLE {layout.LEDGER} RENAME TO {ENTRIES.name}",
            f"DROP TABLE {PROGRESS.name}",
        ):
            connection.exec_driver_sql(statement)
        for index in ENTRIES.indexes:
            index.create(connection)
        ledger.recount(connection)
        connection.execute(MARK.update().values(version=VERSION))
        return True


def _name(row: Sequence[Any]) -> str:
    return f"{str(row[0])[:12]} of {row[2]} {row[3]}"


def _usd(row: Sequence[Any]) -> float:
    found = row[-3]
    return found if isinstance(found, float) and 0 <= found < 1e6 else 0.0
