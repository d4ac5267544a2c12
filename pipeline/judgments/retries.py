"""Database errors that pass by themselves: which they are, how long they are waited for, and what
to do about those that stay.

A lock, a full disk or a server that restarts is no reason to lose what was paid for. A mistake (a
wrong table, a row that breaks its rules) is never tried again.
"""

import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import tenacity
from sqlalchemy import exc

RETRY_SECONDS = 120.0  # how long one store waits for an error to pass, over all of its calls
TOLD_SECONDS = 30.0  # of waiting, before it is said
# libpq's words where a connection is refused, for which psycopg has no SQLSTATE
THERE = re.compile("starting up|shutting down|recovery mode|too many clients|remaining connection")
FIRST_WAIT, LONGEST_WAIT = 0.05, 2.0  # seconds between two tries, growing with jitter
REMEDY = "Set JUDGMENTS_URL to the right store, to a new file, or to an empty database."
RESTORE = (
    "Wanted a whole file. Nothing was changed. Restore it from a copy, or import an export of it "
    "into a new store."
)
DAMAGED = (
    "Nothing was changed, and nothing bought in its place. Restore it from a copy, or run "
    "`omniopd judgments repair`: it lists every damaged answer, repairs what it can, and says what "
    "the rest costs to buy again; with --drop-damaged it removes those, and the next run buys "
    "them. `omniopd judgments import FILE` brings them back from an export for nothing."
)
log = logging.getLogger("omniopd")
T = TypeVar("T")

# primary result codes of SQLite, and SQLSTATEs of Postgres or classes of them
LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
STANDS_STILL = {"25P03", "55P03"}  # this process, in a transaction; or who holds a lock of a row
RIVALS = {"40001", "40003", "40P01"}  # transactions that were in each other's way
STATES = STANDS_STILL | RIVALS | {"57P01", "57P02", "57P03", "58030"}  # shutdown, restart, disk
CLASSES = {"08", "53"}  # the connection; out of disk, memory or connections


class Retries:
    """How one store waits. Threads may share it."""

    def __init__(self, shown: str, reached: bool = False) -> None:
        """`shown` is the store's name in messages; `reached`: it was, so that it is no mistake in
        its URL if it cannot be reached now."""
        self._shown, self._reached = shown, reached
        self._since: float | None = None  # the first of the errors that no success has followed
        self._ever = False  # this process has
        self._told = False
        self._over = threading.Event()

    def hurry(self) -> None:
        """Try each call once from now on: the process is to end."""
        self._over.set()

    def call(self, action: Callable[[], T]) -> T:
        """The result of `action`, tried again after errors that may pass.

        Raises SQLAlchemyError: at once for a mistake; otherwise the last one, when RETRY_SECONDS
        have gone by since the store's first error with no success between. So a store that stays
        away is waited for once, not in each call.
        """
        try:
            found = action()
        except exc.SQLAlchemyError as error:
            if not passes(error) or not (self._reached or answered(error)):
                raise
            found = self._again(action, error)
        self._since, self._reached, self._ever = None, True, True
        return found

    def _again(self, action: Callable[[], T], first: exc.SQLAlchemyError) -> T:
        if self._since is None:
            self._since, self._told = time.monotonic(), False
        if self._over.wait(FIRST_WAIT) or self._waited() >= RETRY_SECONDS:
            raise first
        return tenacity.Retrying(
            sleep=tenacity.sleep_using_event(self._over),
            retry=tenacity.retry_if_exception(passes),
            wait=tenacity.wait_random_exponential(FIRST_WAIT, LONGEST_WAIT),
            stop=lambda _: self._over.is_set() or self._waited() >= RETRY_SECONDS,
            before_sleep=self._tell,
            reraise=True,
        )(action)

    def _waited(self) -> float:
        return 0.0 if self._since is None else time.monotonic() - self._since

    def _tell(self, state: tenacity.RetryCallState) -> None:
        waited = self._waited()
        error = state.outcome.exception() if state.outcome else None
        if self._told or not isinstance(error, exc.SQLAlchemyError):
            return
        # of one that this process has not reached yet, and that says nothing, it is told at once
        if waited < TOLD_SECONDS and (self._ever or answered(error)):
            return
        self._told = True
        until = time.ctime(time.time() + RETRY_SECONDS - waited)
        log.warning(
            f"judgments at {self._shown}: {reason(error)}. Tried again until {until}. "
            f"{remedy(error)}"
        )


def passes(error: BaseException) -> bool:
    """Whether an error may be gone at another try."""
    if isinstance(error, exc.TimeoutError):  # all connections of this process are in use
        return True
    if not isinstance(error, exc.DBAPIError) or isinstance(error, exc.IntegrityError):
        return False
    if error.connection_invalidated or _code(error) in LOCKED | DISK:
        return True
    if isinstance(error.orig, sqlite3.Error):
        return False
    state = _state(error)
    if state is None:  # no word from the server: it was not reached, or did not let us in
        return isinstance(error, exc.OperationalError)
    return state in STATES or state[:2] in CLASSES


def answered(error: exc.SQLAlchemyError) -> bool:
    """Whether a database is there that could not serve just now."""
    return bool(_code(error) or _state(error) or THERE.search(str(error)))


def reason(error: exc.SQLAlchemyError) -> str:
    """The first line of what the driver said: the others may repeat what was sent."""
    cause = getattr(error, "orig", None)
    found = str(cause if cause is not None else type(error).__name__).strip().splitlines()
    return found[0] if found else type(error).__name__


def remedy(error: exc.SQLAlchemyError) -> str:
    """The remedy, by the cause."""
    code, state = _code(error), _state(error)
    if code in LOCKED:
        return (
            "Another process keeps the file locked: it may be stopped, or stuck. Find it with "
            "`fuser -v FILE`, let it go on or end it, then rerun."
        )
    if code in DISK or state in ("53100", "58030"):
        return "Free space on the store's disk, check that the disk is sound, then rerun."
    if code == sqlite3.SQLITE_CORRUPT:
        return RESTORE
    if code == sqlite3.SQLITE_READONLY or state in ("25006", "42501"):
        return "Give this user the right to write to the store, then rerun."
    if state == "53300":
        return "Run fewer processes side by side, or raise the server's max_connections."
    if state in STANDS_STILL | RIVALS:
        return "Let the processes that use the store go on or end them, then rerun."
    if passes(error):
        return "Wanted a server that can be reached. Check that it runs, then rerun."
    return REMEDY


def _code(error: exc.SQLAlchemyError) -> int | None:
    """SQLite's primary result code."""
    code: int | None = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _state(error: exc.SQLAlchemyError) -> str | None:
    """Postgres's SQLSTATE."""
    state: str | None = getattr(getattr(error, "orig", None), "sqlstate", None)
    return state
