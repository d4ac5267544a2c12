"""The judgment store: look up, claim, add. A table beside the DAG, neither dep nor out of a stage.

Answers are only ever added. A claim with a lease keeps two processes from buying the same answer
at the same time; whoever holds one renews it while it works, and the claims of a killed process
lapse.

SQLite needs a local disk (WAL does not work on network file systems); Postgres serves a team. The
lease is measured with each host's own clock, so hosts that share a store keep theirs in step; a
clock that is wrong can cost a second purchase, never a wrong answer.
"""

import functools
import json
import os
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Self

import platformdirs
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.errors import UserError
from pipeline.judgments import database
from pipeline.judgments.held import Held
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
    to_row,
)

CHUNK = 500  # keys in one query or transaction
REMEDY = "Nothing was changed. Restore it from a copy, or import an export of it into a new store."
LEASE_SECONDS = 30.0  # how long the claims of a killed process keep others waiting
FUTURE_SECONDS = 10 * LEASE_SECONDS  # a claim that runs longer is of a clock that was set back


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

    def __init__(self, url: str, project: str = "") -> None:
        """`project` names the experiment whose purchases the ledger adds up."""
        parsed = database.parse(url)
        self._project = project
        self.name = database.name(parsed)
        self._owner = uuid.uuid4().hex
        self.read_only = database.read_only(parsed)
        self._engine = database.connectable(parsed)
        self._writer = self._engine.execution_options(write=not self.read_only)
        backend = parsed.get_backend_name()
        self._insert: Any = sqlite.insert if backend == "sqlite" else postgresql.insert
        database.check(self._writer, self.name, METADATA, MARK, VERSION)
        if backend == "sqlite" and not self.read_only:
            database.use_wal(self._engine, self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._engine.dispose()

    def find(self, keys: Iterable[str], limit: int) -> Iterator[Judgment]:
        """The stored answers to `keys` that serve `limit` tokens, a chunk at a time.

        Of several rows that serve, the one with the smallest limit. Order within a chunk is the
        keys' own; a key without an answer is left out.
        """
        for chunk in _chunks(keys):
            query = sa.select(JUDGMENTS).where(*_serves(chunk, limit)).order_by(*_PLACE)
            with self.reading() as connection:
                rows = connection.execute(query).mappings().all()
            found = {row["key"]: row for row in reversed(rows)}  # the smallest limit is set last
            yield from (self._judgment(found[key]) for key in chunk if key in found)

    def claim(self, keys: Iterable[str], limit: int, lease: float = LEASE_SECONDS) -> set[str]:
        """Those of `keys` that the caller may now buy, for `lease` seconds.

        Left out: keys that another holds, at whatever limit (also another thread of this store),
        and keys that have been answered for `limit` by now. Look both up again with `find`.
        """
        mine: set[str] = set()
        for chunk in _chunks(keys):
            # read first: who waits for another's purchase would keep the database's one writer busy
            held = (CLAIMS.c.key.in_(sorted(chunk)), ~lapsed(time.time()))
            with self.reading() as connection:
                taken = set(connection.execute(sa.select(CLAIMS.c.key).where(*held)).scalars())
            if free := sorted(set(chunk) - taken):
                mine |= self._claim(free, limit, lease)
        return mine

    def _claim(self, keys: list[str], limit: int, lease: float) -> set[str]:
        now = time.time()
        insert = self._insert(CLAIMS)
        new = {"owner": insert.excluded.owner, "expires_at": insert.excluded.expires_at}
        take = insert.on_conflict_do_update(
            index_elements=["key"], set_=new, where=lapsed(now)
        ).returning(CLAIMS.c.key)
        rows = [{"key": key, "owner": self._owner, "expires_at": now + lease} for key in keys]
        with self.writing() as connection:
            taken = set(connection.execute(take, rows).scalars())
            # Only after the claim: whoever held it before stored its answer and let go at once.
            answered = sa.select(JUDGMENTS.c.key).where(*_serves(taken, limit))
            known = set(connection.execute(answered).scalars())
            self._drop(connection, known)
        return taken - known

    def renew(self, keys: Iterable[str], lease: float = LEASE_SECONDS) -> set[str]:
        """Extend the claims on `keys` to `lease` seconds from now; returns those still held.

        One that lapsed and that nobody took is held again; one that another took meanwhile, or
        whose answer is stored, is not.
        """
        kept: set[str] = set()
        for chunk in _chunks(keys):
            mine = (CLAIMS.c.owner == self._owner, CLAIMS.c.key.in_(chunk))
            with self.writing() as connection:
                # rows are locked in the order of their keys: Postgres deadlocks otherwise
                query = sa.select(CLAIMS.c.key).where(*mine).order_by(CLAIMS.c.key)
                found = connection.execute(query.with_for_update()).scalars().all()
                new = CLAIMS.update().where(*mine)
                connection.execute(new.values(expires_at=time.time() + lease))
            kept.update(found)
        return kept

    def expiry(self, keys: Collection[str]) -> float | None:
        """When the first of the claims on `keys` lapses, a time stamp; None without a claim."""
        first: float | None = None
        for chunk in _chunks(keys):
            query = sa.select(sa.func.min(CLAIMS.c.expires_at)).where(CLAIMS.c.key.in_(chunk))
            with self.reading() as connection:
                found = connection.execute(query).scalar()
            first = found if first is None or (found is not None and found < first) else first
        return first

    def release(self, keys: Iterable[str]) -> None:
        """Give up the claims on `keys`; those of others stay."""
        for chunk in _chunks(keys):
            with self.writing() as connection:
                self._drop(connection, chunk)

    @contextmanager
    def holding(
        self, keys: Iterable[str], limit: int, lease: float = LEASE_SECONDS
    ) -> Iterator[Held]:
        """Claim what can be claimed of `keys` and yield it, renewing until the block ends.

        The caller asks `still` before it buys, then looks up the rest with `find` and claims again
        what is still missing: its holder may have been killed.
        """
        claimed = time.time()  # before the claims, which may have to wait for the database
        mine = self.claim(keys, limit, lease)
        held = Held(mine, claimed, functools.partial(self.renew, lease=lease), lease)
        try:
            yield held
        finally:
            held.end()
            self.release(held.keys)

    def add(self, judgments: Sequence[Judgment], paid: Entry | None = None) -> None:
        """Store all answers of one reply, or none, and release their claims with them.

        An answer that is there already stays as it is: the first writer wins. What the reply
        cost enters the ledger in the same transaction.
        """
        if not judgments:
            return
        rows = [
            to_row(f) for f in sorted(judgments, key=lambda found: (found.key, found.token_limit))
        ]
        with self.writing() as connection:
            connection.execute(self._insert(JUDGMENTS).on_conflict_do_nothing(), rows)
            for chunk in _chunks(found.key for found in judgments):
                self._drop(connection, chunk)
            if paid is not None:
                self._enter(connection, paid)

    def enter(self, entry: Entry) -> None:
        """A line more in the ledger; none in a store that is only read."""
        if self.read_only:
            return
        with self.writing() as connection:
            self._enter(connection, entry)

    def _enter(self, connection: sa.Connection, entry: Entry) -> None:
        values = asdict(entry) | {"project": self._project, "created_at": time.time()}
        connection.execute(LEDGER.insert().values(values))

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
        values = {"id": batch.id, "teacher": teacher, "keys": json.dumps(batch.keys)}
        with self.writing() as connection:
            connection.execute(BATCHES.insert().values(values | {"created_at": time.time()}))

    def collected(self, batch: Batch, keys: Collection[str]) -> None:
        """Forget these keys of a batch, and the batch with its last one."""
        rest = [key for key in batch.keys if key not in keys]
        this = BATCHES.c.id == batch.id
        with self.writing() as connection:
            if rest:
                connection.execute(BATCHES.update().where(this).values(keys=json.dumps(rest)))
            else:
                connection.execute(BATCHES.delete().where(this))

    def checked(self, teacher: str) -> bool:
        """Whether this teacher, named by a hash of its settings, has passed its check."""
        query = sa.select(CHECKS.c.teacher).where(CHECKS.c.teacher == teacher)
        with self.reading() as connection:
            return connection.execute(query).first() is not None

    def passed(self, teacher: str) -> None:
        """Remember that this teacher passed its check."""
        row = {"teacher": teacher, "created_at": time.time()}
        with self.writing() as connection:
            connection.execute(self._insert(CHECKS).on_conflict_do_nothing(), [row])

    def stream(self, *where: sa.ColumnElement[bool]) -> Iterator[list[tuple[Judgment, str]]]:
        """Answers with their stored checksums, in the order of their keys, a chunk at a time."""
        last: tuple[str, int] = ("", 0)
        query = (
            sa.select(JUDGMENTS).where(*where).order_by(JUDGMENTS.c.key, JUDGMENTS.c.token_limit)
        )
        while True:
            with self.reading() as connection:
                rows = (
                    connection.execute(query.where(sa.tuple_(*_PLACE) > last).limit(CHUNK))
                    .mappings()
                    .all()
                )
            if not rows:
                return
            last = (rows[-1]["key"], rows[-1]["token_limit"])
            yield [(self._judgment(row), row["checksum"]) for row in rows]

    def _judgment(self, row: sa.RowMapping) -> Judgment:
        try:
            return from_row(row)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self.name}: the answer {row['key'][:12]} is damaged: {error}. {REMEDY}"
            ) from error

    def adopt(self, judgments: Sequence[Judgment]) -> int:
        """Store answers that were bought elsewhere; returns how many this store lacked."""
        with self.writing() as connection:
            insert = self._insert(JUDGMENTS).on_conflict_do_nothing().returning(JUDGMENTS.c.key)
            rows = [to_row(found) for found in judgments]
            return len(connection.execute(insert, rows).all()) if rows else 0

    def reading(self) -> AbstractContextManager[sa.Connection]:
        return database.transaction(self._engine, self.name)

    def writing(self) -> AbstractContextManager[sa.Connection]:
        if self.read_only:
            raise UserError(
                f"judgments at {self.name}: found a file that this process may only read, wanted "
                "one to store answers in. Change its rights or its folder's, or set JUDGMENTS_URL "
                "to another store; what it holds is found all the same (teach.replay: true)."
            )
        return database.transaction(self._writer, self.name)

    def _drop(self, connection: sa.Connection, keys: Iterable[str]) -> None:
        mine = (CLAIMS.c.owner == self._owner, CLAIMS.c.key.in_(sorted(keys)))
        ordered = sa.select(CLAIMS.c.key).where(*mine).order_by(CLAIMS.c.key).with_for_update()
        held = connection.execute(ordered).scalars().all()
        if held:
            connection.execute(CLAIMS.delete().where(CLAIMS.c.key.in_(held)))


def _serves(keys: Iterable[str], limit: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (JUDGMENTS.c.key.in_(sorted(keys)), JUDGMENTS.c.token_limit >= limit)


def _chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(keys)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk
