"""One process at a time brings a store into another version; the others wait and say so."""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from pipeline.core.errors import UserError
from pipeline.judgments import database
from pipeline.judgments.opened import OpenDatabase

WAIT_SECONDS = 0.5  # between two looks whether the other has ended
TOLD_SECONDS = 60.0  # between two words on it
log = logging.getLogger("omniopd")


@contextmanager
def held(opened: OpenDatabase, state: Callable[[], str]) -> Iterator[sa.Connection | None]:
    """The one right to change a store's version; waits for it as long as another process lives.

    `state` says how far that one is. On Postgres a connection in a transaction, which the right
    ends with; on SQLite a lock on FILE-migration, which the kernel takes from a killed process.
    """
    if opened.dialect == "sqlite":
        with _file(opened, state):
            yield None
    else:
        with _advisory(opened, state) as connection:
            yield connection


@contextmanager
def _file(opened: OpenDatabase, state: Callable[[], str]) -> Iterator[None]:
    # beside the file and not on it: closing a file drops SQLite's own locks on it
    path = Path(f"{Path(opened.url.database or '').expanduser()}-migration")
    try:
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise UserError(
            f"{path}: could not be written ({error.strerror}), wanted a lock for the time in which "
            "the store is brought into another version. Give this user the right to write there."
        ) from error
    try:
        waiting = _Waiting(opened.name, state)
        while not _locked(file):
            waiting.wait()
        yield
        path.unlink(missing_ok=True)  # who waits for it finds that there is nothing to do
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _advisory(opened: OpenDatabase, state: Callable[[], str]) -> Iterator[sa.Connection]:
    waiting = _Waiting(opened.name, state)
    while True:
        with opened.writing() as connection:
            # nothing else happens on this connection while the batches are written on others
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            mine = sa.func.pg_try_advisory_xact_lock(database.LOCK + 1)
            if connection.execute(sa.select(mine)).scalar_one():
                yield connection
                return
        waiting.wait()


class _Waiting:
    def __init__(self, name: str, state: Callable[[], str]) -> None:
        self._name, self._state, self._told = name, state, float("-inf")

    def wait(self) -> None:
        if time.monotonic() - self._told > TOLD_SECONDS:
            self._told = time.monotonic()
            log.warning(
                f"judgments at {self._name}: another process is bringing it into another version "
                f"({self._state()}). Waiting for it."
            )
        time.sleep(WAIT_SECONDS)
