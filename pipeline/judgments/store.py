"""The judgment store: look up, add. A table beside the DAG, neither dep nor out of a stage.

Answers are only ever added. SQLite needs a local disk (WAL does not work on network file systems);
Postgres serves a team.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import platformdirs
import sqlalchemy as sa

from pipeline.core.errors import UserError
from pipeline.judgments import database, ledger
from pipeline.judgments.claims.claims import Claims
from pipeline.judgments.ledger import Counts, Entry
from pipeline.judgments.opened import CHUNK, OpenDatabase, chunks
from pipeline.judgments.retries import DAMAGED
from pipeline.judgments.schema import (
    BATCHES,
    CHECKS,
    JUDGMENTS,
    LEDGER,
    VERSION,
    Judgment,
    from_row,
    judgment,
    to_row,
)
from pipeline.judgments.spool import Kept, Spool

log = logging.getLogger("omniopd")
_ENTER = LEDGER.insert()
_PLACE = (JUDGMENTS.c.key, JUDGMENTS.c.token_limit)


def url() -> str:
    """Where the store is: JUDGMENTS_URL, or a SQLite file in the user's cache directory."""
    if given := os.environ.get("JUDGMENTS_URL"):
        return given
    folder = platformdirs.user_cache_path("omniopd")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"JUDGMENTS_URL: not set, and found {folder}: {error.strerror}, wanted a folder for "
            "the store of answers. Set HOME to one that can be written, or JUDGMENTS_URL to "
            "sqlite:////PATH/judgments.sqlite."
        ) from error
    file = str(folder / f"judgments-{VERSION}.sqlite")
    return sa.URL.create("sqlite", database=file).render_as_string()


@dataclass(frozen=True)
class Batch:
    """A batch at a provider that may still have to be collected."""

    id: str
    keys: tuple[str, ...]  # the first key of each request


class Store:
    """An open store. Use it as a context manager; threads may share it, processes open their own.

    Raises UserError, without any password, when the store cannot be opened, read or written.
    """

    def __init__(self, url: str, project: str = "", spool: Path | None = None) -> None:
        """`project` names the experiment whose purchases the ledger adds up; `spool` is the folder
        for what arrived and cannot be stored."""
        parsed = database.parse(url)
        self.spool = None if spool is None else Spool(parsed, spool)
        self._away: UserError | None = None  # why nothing more is written
        self._project = project
        self.database = OpenDatabase(parsed)
        self.name = self.database.name
        self.claims = Claims(self.database, self.spool)
        # made once: they are executed for each reply
        self._add = self.database.insert(JUDGMENTS).on_conflict_do_nothing()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.database.close()
        if self.spool is not None:
            self.spool.close()

    def find(self, keys: Iterable[str], limit: int) -> Iterator[Judgment]:
        """The stored answers to `keys` that serve `limit` tokens, a chunk at a time.

        Of several rows that serve, the one with the smallest limit. Order within a chunk is the
        keys' own; a key without an answer is left out. Every row is held against its checksum:
        raises UserError naming the first damaged one.
        """
        for chunk in chunks(keys):
            # also those that do not serve: of a damaged one it is not known which limit it had
            query = sa.select(JUDGMENTS).where(JUDGMENTS.c.key.in_(sorted(chunk)))
            found = [self._judgment(row) for row in self.database.rows(query.order_by(*_PLACE))]
            serve = {one.key: one for one in reversed(found) if one.token_limit >= limit}
            yield from (serve[key] for key in chunk if key in serve)

    def add(self, judgments: Sequence[Judgment], paid: Entry | None = None) -> None:
        """Store all answers of one reply, or none, and release their claims with them.

        An answer that is there already stays as it is: the first writer wins. What the reply
        cost enters the ledger in the same transaction. What cannot be stored goes to the spool,
        where there is one, before UserError is raised.
        """
        if judgments:
            entry = None if paid is None else asdict(paid)
            self._keep(Kept(self.name, self._project, time.time(), tuple(judgments), entry))

    def enter(self, entry: Entry) -> None:
        """A line more in the ledger; to the spool, like an answer, where that is not possible.
        None in a store that is only read."""
        if not self.database.read_only:
            self._keep(Kept(self.name, self._project, time.time(), (), asdict(entry)))

    def _keep(self, kept: Kept) -> None:
        if self.spool is None:
            self._store(kept)
            return
        try:
            if self._away is not None:  # that was waited for, and the stage is ending
                raise self._away
            self._store(kept)
        except BaseException as error:
            if isinstance(error, UserError) and not isinstance(error, database.Refused):
                self._away = error
            try:
                self.spool.keep(kept)
            except OSError as worse:
                lost = (
                    f"batch {kept.batch['id']}" if kept.batch else f"{len(kept.judgments)} answers"
                )
                raise UserError(
                    f"{error} And {lost}, paid for, could not be kept: {self.spool.path} could not "
                    f"be written ({worse})."
                ) from error
            if not isinstance(error, UserError):
                raise
            raise UserError(
                f"{error} What arrived and is not stored is kept in {self.spool.path}: the next "
                "run takes it in before it asks for anything, `omniopd judgments recover` now."
            ) from error

    def take_in(self, kept: Kept) -> int:
        """Store what was kept, unless it is there; returns how many answers were not."""
        return self._store(kept, again=True)

    def _store(self, kept: Kept, again: bool = False) -> int:
        """`again`: it may have been stored before; returns how many answers had not."""
        ordered = sorted(kept.judgments, key=lambda found: (found.key, found.token_limit))
        rows = [to_row(found) for found in ordered]
        insert = self._add
        paid = None if kept.paid is None else kept.paid | _mark(kept)

        def store(connection: sa.Connection) -> int:
            nonlocal again
            new = 0
            if again and rows:
                new = len(connection.execute(insert.returning(JUDGMENTS.c.key), rows).all())
            elif rows:
                connection.execute(insert, rows)
            for chunk in chunks(found.key for found in ordered):
                self.claims.drop(connection, chunk)
            if paid is not None and not (again and ledger.entered(connection, paid)):
                connection.execute(_ENTER, paid)
            if kept.batch is not None:
                known = self.database.insert(BATCHES).on_conflict_do_nothing()
                connection.execute(known, kept.batch)
            again = True  # it may be committed, though the connection breaks off
            return new

        return self.database.write(store)

    def spent(self) -> Entry:
        """All that the ledger has of this project."""
        with self.database.reading() as connection:
            return ledger.total(connection, LEDGER.c.project == self._project)

    def stats(self) -> Counts:
        """The content of the store and its use, over all projects."""
        rows = sa.select(sa.func.count(), sa.func.count(JUDGMENTS.c.failure))
        with self.database.reading() as connection:
            answers, failures = connection.execute(rows.select_from(JUDGMENTS)).one()
            used = ledger.total(connection)
        return Counts(answers=answers, failures=failures, **asdict(used))

    def open_batches(self, teacher: str) -> list[Batch]:
        """Batches of this teacher that nobody has collected, the oldest first."""
        query = sa.select(BATCHES.c.id, BATCHES.c["keys"]).where(BATCHES.c.teacher == teacher)
        with self.database.reading() as connection:
            rows = connection.execute(query.order_by(BATCHES.c.created_at, BATCHES.c.id)).all()
        return [Batch(id_, tuple(json.loads(keys))) for id_, keys in rows]

    def keep_batch(self, teacher: str, batch: Batch) -> None:
        """Remember a batch before waiting for it: a killed run takes it up again."""
        now, keys = time.time(), json.dumps(batch.keys)
        row = {"id": batch.id, "teacher": teacher, "keys": keys, "created_at": now}
        self._keep(Kept(self.name, self._project, now, (), None, row))

    def collected(self, batch: Batch, keys: Collection[str]) -> None:
        """Forget these keys of a batch, and the batch with its last one."""
        rest = [key for key in batch.keys if key not in keys]
        this = BATCHES.c.id == batch.id
        kept = BATCHES.update().where(this).values(keys=json.dumps(rest))
        self.database.execute(kept if rest else BATCHES.delete().where(this))

    def checked(self, teacher: str) -> bool:
        """Whether this teacher, named by a hash of its settings, has passed its check."""
        query = sa.select(CHECKS.c.teacher).where(CHECKS.c.teacher == teacher)
        with self.database.reading() as connection:
            return connection.execute(query).first() is not None

    def passed(self, teacher: str) -> None:
        """Remember that this teacher passed its check."""
        row = {"teacher": teacher, "created_at": time.time()}
        self.database.execute(self.database.insert(CHECKS).values(row).on_conflict_do_nothing())

    def stream(self, *where: sa.ColumnElement[bool]) -> Iterator[list[tuple[Judgment, str]]]:
        """Answers with their stored checksums, in the order of their keys, a chunk at a time.

        Nothing is held against them. Raises UserError for a row that is none of an answer.
        """
        last: tuple[str, int] = ("", 0)
        query = sa.select(JUDGMENTS).where(*where).order_by(*_PLACE)
        while rows := self.database.rows(query.where(sa.tuple_(*_PLACE) > last).limit(CHUNK)):
            last = (rows[-1].key, rows[-1].token_limit)
            yield [(self._judgment(row, judgment), row.checksum) for row in rows]

    def _judgment(
        self, row: sa.Row[Any], read: Callable[[Sequence[Any]], Judgment] = from_row
    ) -> Judgment:
        try:
            return read(row)
        except (ValueError, TypeError) as error:
            what = f"{str(row.key)[:12]} of {row.provider} {row.model}"
            raise UserError(
                f"{self.name}: the answer {what} is damaged: {error}. {DAMAGED}"
            ) from error

    def adopt(self, judgments: Sequence[Judgment]) -> int:
        """Store answers that were bought elsewhere; returns how many this store lacked."""
        insert = self.database.insert(JUDGMENTS).on_conflict_do_nothing().returning(JUDGMENTS.c.key)
        rows = [to_row(found) for found in judgments]
        if not rows:
            return 0
        return self.database.write(lambda connection: len(connection.execute(insert, rows).all()))


def _mark(kept: Kept) -> dict[str, Any]:
    return {"project": kept.project, "created_at": kept.created_at}
