"""Replies that arrived and could not be stored: kept in the project until a later run stores them.

.spool/STORE-PROCESS.jsonl, a line for each reply with its place in the ledger, on the disk before
the stage ends. STORE is a hash of where the store is, without its password: the answers are taken
into no other one, unless asked for (`omniopd judgments recover FILE`). Taking in twice changes
nothing. A line that is not whole, or that the store refuses, is moved to FILE.damaged.
"""

import fcntl
import hashlib
import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import tenacity

from pipeline.core.errors import UserError
from pipeline.judgments.schema import Judgment

FOLDER = Path(".spool")
RESERVE = 1 << 20  # bytes of the disk that a process which buys takes in advance
TURN_SECONDS = 120.0  # how long another process may take to take in
PLACES = ("host", "port", "dbname", "service")  # what a query of a URL says of where a store is

log = logging.getLogger("omniopd")


@dataclass(frozen=True)
class Kept:
    """A reply that was paid for, a batch that was handed in, or another line of the ledger."""

    store: str  # as it may be shown
    project: str
    created_at: float  # of its line in the ledger: with its counts what tells it from others
    judgments: tuple[Judgment, ...]
    paid: dict[str, Any] | None  # counts of the ledger, by name
    batch: dict[str, Any] | None = None  # columns of a batch


@dataclass(frozen=True)
class Found:
    """The content of a file."""

    kept: tuple[tuple[Kept, bytes], ...]  # with their lines
    damaged: bytes  # lines that are not whole


class Spool:
    """Where one process keeps what a store cannot take. Threads may share it."""

    def __init__(self, url: sa.URL, folder: Path = FOLDER) -> None:
        self.folder, self._store = folder, _identity(url)
        self.path = folder / f"{self._store}-{uuid.uuid4().hex}.jsonl"
        self._file: int | None = None
        self._end = 0  # of what was kept, bytes
        self._lock = threading.Lock()

    def reserve(self) -> None:
        """Take RESERVE bytes of the disk now: the store's may be the same one, and fill up."""
        with self._lock:
            if self._file is not None:
                return
            try:
                os.pwrite(self._opened(), bytes(RESERVE), 0)
            except OSError as error:
                log.warning(
                    f"{self.folder}: no room is reserved for answers that the store cannot take "
                    f"({error}). Free space: if both fail, such answers are lost."
                )

    def keep(self, kept: Kept) -> None:
        """Write a line, and wait until it is on the disk. Raises OSError."""
        rows = [found._asdict() for found in kept.judgments]
        text = json.dumps(vars(kept) | {"judgments": rows})
        line = json.dumps({"checksum": _checksum(text), "kept": text}).encode() + b"\n"
        with self._lock:
            file, written = self._opened(), 0
            try:
                while written < len(line):
                    written += os.pwrite(file, line[written:], self._end + written)
                os.fsync(file)
            except OSError:
                os.pwrite(file, bytes(written), self._end)  # half a line would hide the next one
                raise
            self._end += len(line)

    def _opened(self) -> int:
        """The file, locked for as long as this process has it: others do not remove it."""
        while self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.fstat(file).st_nlink:  # else removed as an empty one, before it was locked
                    self._file = file
            finally:
                if self._file is None:
                    os.close(file)
        return self._file

    def close(self) -> None:
        """Give the file up to whoever takes it in; an empty one is removed."""
        if self._file is None:
            return
        if self._end:
            os.ftruncate(self._file, self._end)
        else:
            self.path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None

    def waiting(self) -> list[Path]:
        """Files with answers of this store, the process's own included."""
        return [path for path in _files(self.folder) if path.name.startswith(self._store)]

    def others(self) -> list[Path]:
        """Files with answers of other stores."""
        return [path for path in _files(self.folder) if not path.name.startswith(self._store)]


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Hold the folder: two processes taking in would enter a reply into the ledger twice."""
    file = os.open(folder, os.O_RDONLY)
    try:
        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(BlockingIOError),
            wait=tenacity.wait_fixed(0.1),
            stop=tenacity.stop_after_delay(TURN_SECONDS),
            reraise=True,
        )(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(
            f"{folder}: another process has been taking in what it holds for {TURN_SECONDS:.0f} s. "
            f"Find it with `fuser -v {folder}`, let it go on or end it, then rerun."
        ) from error
    finally:
        os.close(file)


def read(path: Path) -> Found:
    """Raises OSError."""
    kept, damaged = [], b""
    # a process that was killed leaves the rest of its reserve
    for line in path.read_bytes().rstrip(b"\0").splitlines(keepends=True):
        found = _parsed(line)
        if found is None:
            damaged += line
        else:
            kept.append((found, line))
    return Found(tuple(kept), damaged)


@contextmanager
def owned(path: Path) -> Iterator[bool]:
    """Whether no other process writes to the file, nor will."""
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(file)


def remove(path: Path, damaged: bytes) -> Path | None:
    """Remove a file that was taken in; what could not be is kept beside it."""
    aside = None
    if damaged:
        aside = path.with_suffix(".damaged")
        with aside.open("ab") as file:
            file.write(damaged)
            file.flush()
            os.fsync(file.fileno())
    path.unlink()
    return aside


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-*.jsonl")) if folder.is_dir() else []


def _parsed(line: bytes) -> Kept | None:
    try:
        values = json.loads(line)
        if not line.endswith(b"\n") or _checksum(values["kept"]) != values["checksum"]:
            return None
        found = json.loads(values["kept"])
        judgments = tuple(_judgment(row) for row in found.pop("judgments"))
        return Kept(**found, judgments=judgments)
    except (ValueError, TypeError, KeyError):
        return None


def _judgment(row: dict[str, Any]) -> Judgment:
    ids = row.pop("token_ids")
    return Judgment(**row, token_ids=None if ids is None else tuple(ids))


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _identity(url: sa.URL) -> str:
    """A hash of where the store is. No password enters it, and no name of who asks."""
    if url.get_backend_name() == "sqlite":
        place: list[Any] = [str(Path(url.database or "").expanduser().resolve())]
    else:
        query = {name: str(url.query[name]) for name in PLACES if name in url.query}
        place = [url.host, url.port, url.database, query]
    return _checksum(json.dumps([url.get_backend_name(), *place], sort_keys=True))[:16]
