"""Files: written whole or not at all, and their sha256, of a large one computed once.

Every stage with a teacher or an adapter asks what a checkpoint is, and 65 GB take a minute to read.
What is known lies in the user's cache directory, by path, size, inode and time of the last change.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import UserError

LARGE = 1 << 26  # bytes
SETTLED = 2.0  # seconds after its last change, from which on another change has another time


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed over it on success and removed on failure.

    A full disk or an error inside the block leaves nothing behind.
    """
    if path.is_dir():
        raise UserError(f"{path}: found a folder, wanted a file to write. Name a file in it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error}). Free space or rights.") from error
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of the file's content, hex."""
    status = path.stat()
    if status.st_size < LARGE or time.time() - status.st_mtime < SETTLED:
        return _read(path)
    import diskcache
    import platformdirs

    key = f"{path.resolve()}:{status.st_size}:{status.st_ino}:{status.st_mtime_ns}"
    try:
        with diskcache.Cache(str(platformdirs.user_cache_path("omniopd") / "digests")) as known:
            found = known.get(key)
            if found is None:
                known.set(key, found := _read(path))
            return str(found)
    except (OSError, sqlite3.Error, diskcache.Timeout):  # no place for what is known
        return _read(path)


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
