"""Claims with a lease: two processes do not buy the same answer at the same time.

Whoever holds one renews it while it works; those of a killed process lapse. The lease is measured
with the database's clock, so those of the hosts that share it may differ. Should that one clock be
stepped, it can cost a second purchase, never a wrong answer.
"""

import functools
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import sqlalchemy as sa

from pipeline.core.errors import UserError
from pipeline.judgments import database
from pipeline.judgments.claims import owner
from pipeline.judgments.claims.held import Held
from pipeline.judgments.keys import Request
from pipeline.judgments.opened import OpenDatabase, chunks
from pipeline.judgments.retries import DAMAGED
from pipeline.judgments.rows.reading import Reader
from pipeline.judgments.schema import CLAIMS
from pipeline.judgments.spool import Spool

LEASE_SECONDS = 30.0  # how long the claims of a killed process keep others waiting
INDEXED = ("settings", "prefixes")  # tables through whose indexes answers are found
FUTURE_SECONDS = 10 * LEASE_SECONDS  # a claim that runs longer: the clock was set back since

log = logging.getLogger("omniopd")


def lapsed(now: float) -> sa.ColumnElement[bool]:
    """Claims that hold nothing: of a killed process, or of a clock that was set back since."""
    return (CLAIMS.c.expires_at <= now) | (CLAIMS.c.expires_at > now + FUTURE_SECONDS)


class Claims:
    """The claims of one open store; threads may share them."""

    def __init__(self, opened: OpenDatabase, spool: Spool | None, rows: Reader) -> None:
        """`spool` is made ready for answers that cannot be stored, before any is bought."""
        self._database, self._spool, self._rows = opened, spool, rows
        self._owner = owner.new()
        self._checked = False  # whether the file is whole
        # made once: they are executed for each reply. Rows are locked in the order of their keys
        mine = (
            CLAIMS.c.owner == self._owner,
            CLAIMS.c.key.in_(sa.bindparam("keys", expanding=True)),
        )
        self._mine = sa.select(CLAIMS.c.key).where(*mine).order_by(CLAIMS.c.key).with_for_update()
        self._drop = CLAIMS.delete().where(mine[1])

    def claim(
        self, requests: Iterable[Request], limit: int, lease: float = LEASE_SECONDS
    ) -> set[str]:
        """Keys of those of `requests` that the caller may now buy, for `lease` seconds.

        Left out: what another holds, at whatever limit (also another thread of this store), and
        what has been answered for `limit` by now. Look both up again with `Store.find`. Raises
        UserError where the file hides answers that it has, before they are bought again.
        """
        self._whole()
        mine: set[str] = set()
        for chunk in chunks(requests):
            wanted = {request.key: request for request in chunk}
            # read first: who waits for another's purchase would keep the database's one writer busy
            taken = self._database.read(functools.partial(self._held, keys=sorted(wanted)))
            if free := {key: wanted[key] for key in sorted(set(wanted) - taken)}:
                self._rows.check(free.values())
                mine |= self._claim(free, limit, lease)
        return mine

    def _whole(self) -> None:
        """Once, before anything is bought, those tables that find the others' rows: one line for N
        answers. What the answers hide, `Reader.check` sees."""
        for table in () if self._checked else INDEXED:
            if why := self._database.integrity(table):
                raise UserError(f"{self._database.name}: the file is damaged: {why}. {DAMAGED}")
        if not self._checked:
            self._rows.settings.all()  # raises for one that is not what it was
        self._checked = True

    def _held(self, connection: sa.Connection, keys: list[str]) -> set[str]:
        held = (CLAIMS.c.key.in_(keys), ~lapsed(database.now(connection)))
        return set(connection.execute(sa.select(CLAIMS.c.key).where(*held)).scalars())

    def _claim(self, wanted: Mapping[str, Request], limit: int, lease: float) -> set[str]:
        insert = self._database.insert(CLAIMS)
        new = {"owner": insert.excluded.owner, "expires_at": insert.excluded.expires_at}
        until: float | None = None

        def take(connection: sa.Connection) -> set[str]:
            nonlocal until
            now = database.now(connection)
            until = now + lease if until is None else until
            # of this very call: it may have been committed before the connection broke off
            own = (CLAIMS.c.owner == self._owner) & (CLAIMS.c.expires_at == until)
            free = lapsed(now) | own
            rows = [{"key": key, "owner": self._owner, "expires_at": until} for key in wanted]
            query = insert.on_conflict_do_update(index_elements=["key"], set_=new, where=free)
            taken = set(connection.execute(query.returning(CLAIMS.c.key), rows).scalars())
            # Only after the claim: whoever held it before stored its answer and let go at once.
            known = self._rows.known(connection, [wanted[key] for key in taken], limit)
            self.drop(connection, known)
            return taken - known

        return self._database.write(take)

    def renew(self, keys: Iterable[str], lease: float = LEASE_SECONDS) -> set[str]:
        """Extend the claims on `keys` to `lease` seconds from now; returns those still held.

        One that lapsed and that nobody took is held again; one that another took meanwhile, or
        whose answer is stored, is not.
        """
        kept: set[str] = set()
        for chunk in chunks(keys):
            mine = (CLAIMS.c.owner == self._owner, CLAIMS.c.key.in_(chunk))
            kept |= self._database.write(functools.partial(self._extend, mine=mine, lease=lease))
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
        for chunk in chunks(keys):
            query = sa.select(sa.func.min(CLAIMS.c.expires_at)).where(CLAIMS.c.key.in_(chunk))
            rows = self._database.rows(query)
            found = rows[0][0]
            first = found if first is None or (found is not None and found < first) else first
        return first

    def holders(self, keys: Collection[str]) -> list[str]:
        """Who has claims on `keys`, as far as they said."""
        found: set[str] = set()
        for chunk in chunks(keys):
            query = sa.select(CLAIMS.c.owner).where(CLAIMS.c.key.in_(chunk)).distinct()
            found |= {row[0] for row in self._database.rows(query)}
        return sorted({owner.shown(name) for name in found})

    def release(self, keys: Iterable[str]) -> None:
        """Give up the claims on `keys`; those of others stay."""
        for chunk in chunks(keys):
            self._database.write(functools.partial(self.drop, keys=chunk))

    @contextmanager
    def holding(
        self, requests: Iterable[Request], limit: int, lease: float = LEASE_SECONDS
    ) -> Iterator[Held]:
        """Claim what can be claimed of `requests` and yield it, renewing until the block ends.

        The caller asks `still` before it buys, then looks up the rest with `Store.find` and claims
        again what is still missing: its holder may have been killed.
        """
        if self._spool is not None:
            self._spool.reserve()
        claimed = time.time()  # before the claims, which may have to wait for the database
        mine = self.claim(requests, limit, lease)
        held = Held(mine, claimed, functools.partial(self.renew, lease=lease), lease)
        try:
            yield held
        finally:
            held.end()
            try:
                self.release(held.keys)
            except UserError as error:  # it would hide why the block ended; claims lapse, too
                log.warning(f"claims not released, they lapse in {lease:.0f} s: {error}")

    def drop(self, connection: sa.Connection, keys: Iterable[str]) -> None:
        """Give up the claims on `keys` within a transaction."""
        held = connection.execute(self._mine, {"keys": sorted(keys)}).scalars().all()
        if held:
            connection.execute(self._drop, {"keys": held})
