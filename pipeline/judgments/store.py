"""The judgment store: look up, claim, add. A table beside the DAG, neither dep nor out of a stage.

Answers are only ever added. A claim with a lease keeps two processes from buying the same answer
at the same time; whoever holds one renews it while it works, and the claims of a killed process
lapse.

SQLite needs a local disk (WAL does not work on network file systems); Postgres serves a team. The
lease is measured with the database's clock, so those of the hosts that share it may differ. Should
that one clock be stepped, it can cost a second purchase, never a wrong answer.
"""

import functools
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import platformdirs
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.core.errors import UserError
from pipeline.judgments import database, owner
from pipeline.judgments.held import Held
from pipeline.judgments.retries import Retries
from pipeline.judgments.schema import (
    BATCHES,
    CHECKS,
    CLAIMS,
    JUDGMENTS,
    LEDGER,
    MARK,
    METADATA,
    VERSION,
    Judgment,
    from_row,
    judgment,
    to_row,
)
from pipeline.judgments.spool import Kept, Spool

CHUNK = 500  # keys in one query or transaction
DAMAGED = (
    "Nothing was changed, and nothing bought in its place. Restore it from a copy, or run "
    "`omniopd judgments repair`: it lists every damaged answer, mends what it can, and says what "
    "the rest costs to buy again; with --drop-damaged it removes those, and the next run buys "
    "them. `omniopd judgments import FILE` brings them back from an export for nothing."
)
LEASE_SECONDS = 30.0  # how long the claims of a killed process keep others waiting
FUTURE_SECONDS = 10 * LEASE_SECONDS  # a claim that runs longer: the clock was set back since

log = logging.getLogger("omniopd")
T = TypeVar("T")
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


def lapsed(now: float) -> sa.ColumnElement[bool]:
    """Claims that hold nothing: of a killed process, or of a clock that was set back since."""
    return (CLAIMS.c.expires_at <= now) | (CLAIMS.c.expires_at > now + FUTURE_SECONDS)


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
    """What a store holds, and what its ledger says of how it was used."""

    answers: int  # failures included
    failures: int
    bought: int  # by runs against this store; the rest was imported
    reused: int
    misses: int
    requests: int
    tokens: int
    usd: float


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
        self.name = database.name(parsed)
        self._owner = owner.new()
        self._checked = False  # whether the file is whole
        self.read_only = database.read_only(parsed)
        self._engine = database.connectable(parsed)
        self._writer = self._engine.execution_options(write=not self.read_only)
        backend = parsed.get_backend_name()
        self._insert: Any = sqlite.insert if backend == "sqlite" else postgresql.insert
        self._writes = Retries(self.name)
        # made once: they are executed for each reply
        self._add = self._insert(JUDGMENTS).on_conflict_do_nothing()
        database.check(self._writer, self._writes, self.name, METADATA, MARK, VERSION)
        if backend == "sqlite" and not self.read_only:
            database.use_wal(self._engine, self._writes, self.name)
        # apart: a file that another process keeps locked can still be read
        self._reads = Retries(self.name, reached=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._engine.dispose()
        if self.spool is not None:
            self.spool.close()

    def hurry(self) -> None:
        """Wait for no error to pass any more: the process is to end."""
        self._reads.hurry()
        self._writes.hurry()

    def find(self, keys: Iterable[str], limit: int) -> Iterator[Judgment]:
        """The stored answers to `keys` that serve `limit` tokens, a chunk at a time.

        Of several rows that serve, the one with the smallest limit. Order within a chunk is the
        keys' own; a key without an answer is left out. Every row is held against its checksum:
        raises UserError naming the first damaged one.
        """
        for chunk in _chunks(keys):
            # also those that do not serve: of a damaged one it is not known which limit it had
            query = sa.select(JUDGMENTS).where(JUDGMENTS.c.key.in_(sorted(chunk)))
            found = [self._judgment(row) for row in self.rows(query.order_by(*_PLACE))]
            serve = {one.key: one for one in reversed(found) if one.token_limit >= limit}
            yield from (serve[key] for key in chunk if key in serve)

    def rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """What a query finds; text that is no UTF-8 any more with a surrogate for each such byte,
        so that its row can be named."""
        try:
            with self.reading() as connection:
                return connection.execute(query).all()
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

    def claim(self, keys: Iterable[str], limit: int, lease: float = LEASE_SECONDS) -> set[str]:
        """Those of `keys` that the caller may now buy, for `lease` seconds.

        Left out: keys that another holds, at whatever limit (also another thread of this store),
        and keys that have been answered for `limit` by now. Look both up again with `find`. Raises
        UserError where the file hides answers that it has, before they are bought again.
        """
        self._whole()
        mine: set[str] = set()
        for chunk in _chunks(keys):
            # read first: who waits for another's purchase would keep the database's one writer busy
            with self.reading() as connection:
                held = (CLAIMS.c.key.in_(sorted(chunk)), ~lapsed(database.now(connection)))
                taken = set(connection.execute(sa.select(CLAIMS.c.key).where(*held)).scalars())
            if free := sorted(set(chunk) - taken):
                mine |= self._claim(free, limit, lease)
        return mine

    def _whole(self) -> None:
        """Once, before anything is bought: a million answers take some seconds."""
        if not self._checked:
            if why := self.integrity("judgments"):
                raise UserError(f"{self.name}: the file is damaged: {why}. {DAMAGED}")
            self._checked = True

    def integrity(self, table: str = "") -> str | None:
        """What SQLite finds wrong with its file, or with a table and its index; None where nothing
        is, and of Postgres, which keeps checksums of its own."""
        with self.reading() as connection:
            if connection.dialect.name != "sqlite":
                return None
            check = f"PRAGMA integrity_check({table})" if table else "PRAGMA integrity_check"
            found = connection.exec_driver_sql(check).scalars().first()
        return None if found == "ok" else " ".join(str(found).split())  # it may have several lines

    def _claim(self, keys: list[str], limit: int, lease: float) -> set[str]:
        insert = self._insert(CLAIMS)
        new = {"owner": insert.excluded.owner, "expires_at": insert.excluded.expires_at}
        until: float | None = None

        def take(connection: sa.Connection) -> set[str]:
            nonlocal until
            now = database.now(connection)
            until = now + lease if until is None else until
            # of this very call: it may have been committed before the connection broke off
            own = (CLAIMS.c.owner == self._owner) & (CLAIMS.c.expires_at == until)
            free = lapsed(now) | own
            rows = [{"key": key, "owner": self._owner, "expires_at": until} for key in keys]
            query = insert.on_conflict_do_update(index_elements=["key"], set_=new, where=free)
            taken = set(connection.execute(query.returning(CLAIMS.c.key), rows).scalars())
            # Only after the claim: whoever held it before stored its answer and let go at once.
            answered = sa.select(JUDGMENTS.c.key).where(*_serves(taken, limit))
            known = set(connection.execute(answered).scalars())
            self._drop(connection, known)
            return taken - known

        return self._write(take)

    def renew(self, keys: Iterable[str], lease: float = LEASE_SECONDS) -> set[str]:
        """Extend the claims on `keys` to `lease` seconds from now; returns those still held.

        One that lapsed and that nobody took is held again; one that another took meanwhile, or
        whose answer is stored, is not.
        """
        kept: set[str] = set()
        for chunk in _chunks(keys):
            mine = (CLAIMS.c.owner == self._owner, CLAIMS.c.key.in_(chunk))
            kept |= self._write(functools.partial(self._extend, mine=mine, lease=lease))
        return kept

    def _extend(
        self, connection: sa.Connection, mine: tuple[sa.ColumnElement[bool], ...], lease: float
    ) -> set[str]:
        # rows are locked in the order of their keys: Postgres deadlocks otherwise
        query = sa.select(CLAIMS.c.key).where(*mine).order_by(CLAIMS.c.key)
        found = connection.execute(query.with_for_update()).scalars().all()
        new = CLAIMS.update().where(*mine)
        connection.execute(new.values(expires_at=database.now(connection) + lease))
        return set(found)

    def expiry(self, keys: Collection[str]) -> float | None:
        """When the first of the claims on `keys` lapses, a time stamp; None without a claim."""
        first: float | None = None
        for chunk in _chunks(keys):
            query = sa.select(sa.func.min(CLAIMS.c.expires_at)).where(CLAIMS.c.key.in_(chunk))
            with self.reading() as connection:
                found = connection.execute(query).scalar()
            first = found if first is None or (found is not None and found < first) else first
        return first

    def holders(self, keys: Collection[str]) -> list[str]:
        """Who has claims on `keys`, as far as they said."""
        found: set[str] = set()
        for chunk in _chunks(keys):
            query = sa.select(CLAIMS.c.owner).where(CLAIMS.c.key.in_(chunk)).distinct()
            with self.reading() as connection:
                found |= set(connection.execute(query).scalars())
        return sorted({owner.shown(name) for name in found})

    def release(self, keys: Iterable[str]) -> None:
        """Give up the claims on `keys`; those of others stay."""
        for chunk in _chunks(keys):
            self._write(functools.partial(self._drop, keys=chunk))

    @contextmanager
    def holding(
        self, keys: Iterable[str], limit: int, lease: float = LEASE_SECONDS
    ) -> Iterator[Held]:
        """Claim what can be claimed of `keys` and yield it, renewing until the block ends.

        The caller asks `still` before it buys, then looks up the rest with `find` and claims again
        what is still missing: its holder may have been killed.
        """
        if self.spool is not None:
            self.spool.reserve()
        claimed = time.time()  # before the claims, which may have to wait for the database
        mine = self.claim(keys, limit, lease)
        held = Held(mine, claimed, functools.partial(self.renew, lease=lease), lease)
        try:
            yield held
        finally:
            held.end()
            try:
                self.release(held.keys)
            except UserError as error:  # it would hide why the block ended; claims lapse, too
                log.warning(f"claims not released, they lapse in {lease:.0f} s: {error}")

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
        if not self.read_only:
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
            for chunk in _chunks(found.key for found in ordered):
                self._drop(connection, chunk)
            if paid is not None and not (again and self._entered(connection, paid)):
                connection.execute(_ENTER, paid)
            if kept.batch is not None:
                known = self._insert(BATCHES).on_conflict_do_nothing()
                connection.execute(known, kept.batch)
            again = True  # it may be committed, though the connection breaks off
            return new

        return self._write(store)

    def _entered(self, connection: sa.Connection, paid: dict[str, Any]) -> bool:
        same = (LEDGER.c[name] == value for name, value in paid.items())
        return connection.execute(sa.select(LEDGER.c.id).where(*same)).first() is not None

    def spent(self) -> Entry:
        """All that the ledger has of this project."""
        with self.reading() as connection:
            return self._sums(connection, LEDGER.c.project == self._project)

    def _sums(self, connection: sa.Connection, *where: sa.ColumnElement[bool]) -> Entry:
        sums = (sa.func.coalesce(sa.func.sum(LEDGER.c[name]), 0).label(name) for name in ENTRY)
        row = connection.execute(sa.select(*sums).where(*where)).mappings().one()
        counts = {name: int(row[name]) for name in ENTRY if name != "usd"}  # Postgres: decimals
        return Entry(**counts, usd=float(row["usd"]))

    def stats(self) -> Counts:
        """What the store holds and how it was used, over all projects."""
        rows = sa.select(sa.func.count(), sa.func.count(JUDGMENTS.c.failure))
        with self.reading() as connection:
            answers, failures = connection.execute(rows.select_from(JUDGMENTS)).one()
            used = self._sums(connection)
        return Counts(answers=answers, failures=failures, **asdict(used))

    def open_batches(self, teacher: str) -> list[Batch]:
        """Batches of this teacher that nobody has collected, the oldest first."""
        query = sa.select(BATCHES.c.id, BATCHES.c["keys"]).where(BATCHES.c.teacher == teacher)
        with self.reading() as connection:
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
        self._execute(kept if rest else BATCHES.delete().where(this))

    def checked(self, teacher: str) -> bool:
        """Whether this teacher, named by a hash of its settings, has passed its check."""
        query = sa.select(CHECKS.c.teacher).where(CHECKS.c.teacher == teacher)
        with self.reading() as connection:
            return connection.execute(query).first() is not None

    def passed(self, teacher: str) -> None:
        """Remember that this teacher passed its check."""
        row = {"teacher": teacher, "created_at": time.time()}
        self._execute(self._insert(CHECKS).values(row).on_conflict_do_nothing())

    def stream(self, *where: sa.ColumnElement[bool]) -> Iterator[list[tuple[Judgment, str]]]:
        """Answers with their stored checksums, in the order of their keys, a chunk at a time.

        Nothing is held against them. Raises UserError for a row that is none of an answer.
        """
        last: tuple[str, int] = ("", 0)
        query = sa.select(JUDGMENTS).where(*where).order_by(*_PLACE)
        while rows := self.rows(query.where(sa.tuple_(*_PLACE) > last).limit(CHUNK)):
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
        insert = self._insert(JUDGMENTS).on_conflict_do_nothing().returning(JUDGMENTS.c.key)
        rows = [to_row(found) for found in judgments]
        if not rows:
            return 0
        return self._write(lambda connection: len(connection.execute(insert, rows).all()))

    def reading(self) -> AbstractContextManager[sa.Connection]:
        return database.transaction(self._engine, self._reads, self.name)

    def writing(self) -> AbstractContextManager[sa.Connection]:
        self._may_write()
        return database.transaction(self._writer, self._writes, self.name)

    def _write(self, action: Callable[[sa.Connection], T]) -> T:
        self._may_write()
        return database.write(self._writer, self._writes, self.name, action)

    def _execute(self, statement: sa.Executable) -> None:
        self._write(lambda connection: connection.execute(statement))

    def _may_write(self) -> None:
        if self.read_only:
            raise UserError(
                f"judgments at {self.name}: found a file that this process may only read, wanted "
                "one to store answers in. Change its rights or its folder's, or set JUDGMENTS_URL "
                "to another store; what it holds is found all the same (teach.replay: true)."
            )

    def _drop(self, connection: sa.Connection, keys: Iterable[str]) -> None:
        mine = (CLAIMS.c.owner == self._owner, CLAIMS.c.key.in_(sorted(keys)))
        ordered = sa.select(CLAIMS.c.key).where(*mine).order_by(CLAIMS.c.key).with_for_update()
        held = connection.execute(ordered).scalars().all()
        if held:
            connection.execute(CLAIMS.delete().where(CLAIMS.c.key.in_(held)))


def _mark(kept: Kept) -> dict[str, Any]:
    return {"project": kept.project, "created_at": kept.created_at}


def _serves(keys: Iterable[str], limit: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (JUDGMENTS.c.key.in_(sorted(keys)), JUDGMENTS.c.token_limit >= limit)


def _chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(keys)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk
