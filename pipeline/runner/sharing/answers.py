"""The team's store of answers: tried, then named in a file of the project that git carries.

The command `omniopd`, by which every stage starts, reads that file where JUDGMENTS_URL is not set
(pipeline/commands/entry.py).
"""

import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from pipeline.core.errors import UserError
from pipeline.core.files import replacing
from pipeline.judgments import database, schema
from pipeline.judgments.keys import Request
from pipeline.judgments.store import Store

FILE = Path("judgments.url")
PASSWORDS = ("password", "passfile", "sslpassword")  # of libpq, in a URL's query
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "ceph", "fuse.sshfs"}
ASKED = Request("local", "trial", "", "completions", {}, 0, None)


def share(url: str) -> Iterator[str]:
    """Have every stage of the project use the store at `url`; in words, as it is done.

    Raises UserError, and then nothing is written.
    """
    parsed = _checked(url)
    if parsed.get_backend_name() == "sqlite":
        assert parsed.database is not None
        parsed = parsed.set(database=os.path.abspath(os.path.expanduser(parsed.database)))
    full = parsed.render_as_string(hide_password=False)
    yield tried(full)
    before = FILE.read_text(encoding="utf-8").strip() if FILE.is_file() else ""
    with replacing(FILE) as temporary:
        temporary.write_text(f"{full}\n", encoding="utf-8")
    yield f"it is in {FILE}, which stages read where JUDGMENTS_URL is not set: commit that file"
    given = os.environ.get("JUDGMENTS_URL")
    if given and given not in (full, before):  # the command reads it from the file, too
        yield "JUDGMENTS_URL is set here to another store, and goes before it"


def tried(url: str) -> str:
    """Write and read back in the store, and leave nothing there; in words. Raises UserError."""
    request = replace(ASKED, prompt=secrets.token_hex(16))
    with Store(url) as one, Store(url) as other:
        if one.database.read_only:
            raise UserError(
                f"judgments at {one.name}: found a file that may only be read here, wanted one to "
                "store answers in. Change its rights or its folder's."
            )
        _rows(one)
        # committed, and seen by another connection
        mine = one.claims.claim([request], 1)
        try:
            seen = other.claims.expiry([request.key]) is not None
        finally:
            one.claims.release(mine)
        if not (seen and mine and other.claims.expiry([request.key]) is None):
            raise UserError(
                f"judgments at {one.name}: found a row that another connection does not see, "
                "wanted one database for both. Correct the URL."
            )
        _for_group(one.database.url)
        return f"judgments at {one.name}: written, read back by another connection, and removed"


def _rows(store: Store) -> None:
    """A row in each table that a purchase writes to, read back and taken back."""
    mark, number = secrets.token_bytes(32), -1 - secrets.randbits(60)
    settings = dict.fromkeys(("provider", "model", "continuation", "sampler"), "trial")
    outcome = {"ended": True, "finish_reason": "stop", "model_returned": "trial"}
    prefix = {"settings": 0, "attempt": 0, "first_seed": 0, "token_limit": 1, "answers": 0}
    answer = dict.fromkeys(("outcome", "prompt_tokens", "completion_tokens", "created_at"), 0)
    rows: tuple[tuple[sa.Column[Any], Any, dict[str, Any]], ...] = (
        (schema.SETTINGS.c.digest, mark, {**settings, "epoch": 0}),
        (schema.OUTCOMES.c.digest, mark, {**outcome, "requested_n": 1}),
        (schema.PREFIXES.c.prompt, mark, prefix),
        (schema.ANSWERS.c.id, number, {**answer, "usd": 0.0, "text": mark, "checksum": mark}),
    )

    def write(connection: sa.Connection) -> None:
        with connection.begin_nested() as nested:
            for column, value, rest in rows:
                table = column.table
                connection.execute(table.insert().values({column.name: value, **rest}))
                if connection.execute(sa.select(column).where(column == value)).first() is None:
                    raise UserError(
                        f"judgments at {store.name}: found nothing after a row was written to "
                        f"{table.name}, wanted it. Correct the database's rules."
                    )
            nested.rollback()

    store.database.write(write)


def _checked(url: str) -> sa.URL:
    """Raises UserError, without showing any secret."""
    parsed = database.parse(url)
    if parsed.password or any(name in parsed.query for name in PASSWORDS):
        raise UserError(
            f"--judgments: found a password for {database.name(parsed)}, wanted none: the URL is "
            f"written to {FILE}, which git carries. Leave it out: Postgres's own client reads "
            "PGPASSWORD and ~/.pgpass, and the user from PGUSER."
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        kind = _file_system(Path(parsed.database).expanduser().absolute())
        if kind in NETWORK:
            raise UserError(
                f"--judgments: found {parsed.database} on a network file system ({kind}), wanted a "
                "local disk: SQLite's log does not work there. Use Postgres for several machines."
            )
    return parsed


def _file_system(path: Path) -> str:
    """The kind of file system that a path lies on; empty where the system does not say."""
    mounts = {one.mountpoint: one.fstype for one in psutil.disk_partitions(all=True)}
    above = (str(one) for one in (path, *path.parents))
    return next((mounts[one] for one in above if one in mounts), "")


def _for_group(url: sa.URL) -> None:
    """Let the group write a file of SQLite of ours that lies in a folder which it may write."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return
    file = Path(url.database)
    if file.stat().st_uid == os.geteuid() and file.parent.stat().st_mode & stat.S_IWGRP:
        file.chmod(stat.S_IMODE(file.stat().st_mode) | stat.S_IRGRP | stat.S_IWGRP)
