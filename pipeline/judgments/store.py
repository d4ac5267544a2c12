"""The judgment store: look up, add. A table beside the DAG, neither dep nor out of a stage.

Answers are only ever added. SQLite needs a local disk (WAL does not work on network file systems);
Postgres serves a team.
"""

import json
import logging
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import platformdirs
import sqlalchemy as sa

from pipeline.core.errors import UserError
from pipeline.judgments import database, ledger
from pipeline.judgments.claims.claims import Claims
from pipeline.judgments.earlier import migrate
from pipeline.judgments.keys import Request
from pipeline.judgments.ledger import Counts, Entry
from pipeline.judgments.opened import OpenDatabase, chunks
from pipeline.judgments.rows.reading import Reader
from pipeline.judgments.rows.writing import Ready, Writer
from pipeline.judgments.schema import ANSWERS, BATCHES, CHECKS, OUTCOMES, PREFIXES, TOTALS, Judgment
from pipeline.judgments.spool import Kept, Spool

FILE = "judgments-2.sqlite"  # since version 2: a store is brought into a later one where it lies
log = logging.getLogger("omniopd")


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
    return sa.URL.create("sqlite", database=str(folder / FILE)).render_as_string()


@dataclass(frozen=True)
class Batch:
    """A batch at a provider that may still have to be collected."""

    id: str
    keys: tuple[str, ...]  # the first key of each request


class Store:
    """An open store. Use it as a context manager; threads may share it, processes open their own.

    Raises UserError, without any password, when the store cannot be opened, read or written.
    """

    def __init__(
        self,
        url: str,
        project: str = "",
        spool: Path | None = None,
        drop_damaged: bool = False,
        reached: bool = False,
    ) -> None:
        """`project` names the experiment whose purchases the ledger adds up; `spool` is the folder
        for what arrived and cannot be stored. A store of version 2 is brought into this one first,
        without its damaged answers if `drop_damaged`. `reached`: others reached it, so if it cannot
        be reached that is no mistake in its URL, and it is waited for."""
        parsed = database.parse(url)
        self.spool = None if spool is None else Spool(parsed, spool)
        self._away: UserError | None = None  # why nothing more is written
        self._project = project
        self.database = OpenDatabase(parsed, reached)
        self.name = self.database.name
        try:
            migrate.bring(self.database, drop_damaged)
        except BaseException:
            self.database.close()
            raise
        self.rows = Reader(self.database)
        self._writer = Writer(self.database, self.rows)
        self.claims = Claims(self.database, self.spool, self.rows)
        self._ledger = ledger.Ledger(self.database.insert)

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

    def find(self, requests: Iterable[Request], limit: int) -> Iterator[Judgment]:
        """The stored answers to `requests` that serve `limit` tokens, a chunk at a time.

        Of several rows that serve, the one with the smallest limit. In the order of the requests;
        one without an answer is left out. Every row is held against its checksum: raises UserError
        naming the first damaged one.
        """
        for chunk in chunks(requests):
            yield from self.rows.find(chunk, limit)

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
        ready = self._writer.ready(kept.judgments)
        keys = sorted({found.key for found in kept.judgments})
        paid = None if kept.paid is None else kept.paid | _mark(kept)

        def store(connection: sa.Connection) -> int:
            nonlocal again
            new = self._writer.insert(connection, ready)
            for chunk in chunks(keys):
                self.claims.drop(connection, chunk)
            if kept.batch is not None:
                known = self.database.insert(BATCHES).on_conflict_do_nothing()
                connection.execute(known, kept.batch)
            # last, as others wait for a row of the total until this is committed
            if paid is not None and not (again and ledger.entered(connection, paid)):
                self._ledger.enter(connection, paid)
            again = True  # it may be committed, though the connection breaks off
            return new

        return self.database.write(store)

    def spent(self) -> Entry:
        """All that the ledger has of this project: a look at its total."""
        own = TOTALS.c.project == self._project
        return self.database.read(lambda connection: ledger.total(connection, own))

    def stats(self) -> Counts:
        """What the store holds and how it was used, over all projects."""
        count = sa.select(sa.func.coalesce(sa.func.sum(PREFIXES.c.answers), 0))
        failed = ANSWERS.join(OUTCOMES, OUTCOMES.c.id == ANSWERS.c.outcome)
        lost = sa.select(sa.func.count(OUTCOMES.c.failure)).select_from(failed)

        def counted(connection: sa.Connection) -> Counts:
            answers, failures = (int(connection.execute(q).scalar_one()) for q in (count, lost))
            used = ledger.total(connection)
            return Counts(answers=answers, failures=failures, **asdict(used))

        return self.database.read(counted)

    def open_batches(self, teacher: str) -> list[Batch]:
        """Batches of this teacher that nobody has collected, the oldest first."""
        query = sa.select(BATCHES.c.id, BATCHES.c["keys"]).where(BATCHES.c.teacher == teacher)
        rows = self.database.rows(query.order_by(BATCHES.c.created_at, BATCHES.c.id))
        return [Batch(id_, tuple(json.loads(keys))) for id_, keys in map(tuple, rows)]

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
        return bool(self.database.rows(query))

    def passed(self, teacher: str) -> None:
        """Remember that this teacher passed its check."""
        row = {"teacher": teacher, "created_at": time.time()}
        self.database.execute(self.database.insert(CHECKS).values(row).on_conflict_do_nothing())

    def adopt(self, judgments: Sequence[Judgment]) -> int:
        """Store answers that were bought elsewhere; returns how many this store lacked."""
        ready: list[Ready] = self._writer.ready(judgments)
        return self.database.write(lambda connection: self._writer.insert(connection, ready))


def _mark(kept: Kept) -> dict[str, Any]:
    return {"project": kept.project, "created_at": kept.created_at}
