"""Faults of buyers and of the server, with the store in a real Postgres."""

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

from tests import databases
from tests.chaos import buying
from tests.chaos.counted import Outcome, Place, kind

SHARED: list[Any] = []  # the server of the faults that let it run
_names = itertools.count()
_alone = threading.Lock()  # the package keeps one register of all its servers


@contextlib.contextmanager
def ready() -> Iterator[None]:
    with databases.postgres() as server:
        SHARED.append(server)
        yield
        SHARED.clear()


def database(server: Any) -> str:
    with _alone:
        return databases.url_of(server, f"chaos{next(_names)}")


for _name, _number in (("kill", signal.SIGKILL), ("term", signal.SIGTERM)):

    @kind(f"buyer-{_name}-postgres", 12, running=True)
    def _(place: Place, number: int = _number) -> Outcome:
        return buying.signalled(place, database(SHARED[0]), number)


@kind("buyer-stop-postgres", 12, running=True)
def _(place: Place) -> Outcome:
    return buying.stopped(place, database(SHARED[0]))


for _name, _seconds in (("ahead", 3600.0), ("back", -3600.0)):

    @kind(f"buyer-clock-{_name}-postgres", 12, running=True)
    def _(place: Place, seconds: float = _seconds) -> Outcome:
        return buying.stepped(place, seconds, database(SHARED[0]))


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
    with ExitStack() as stack:
        with _alone:
            server = stack.enter_context(databases.postgres())
        bought = stack.enter_context(buying.purchase(place, database(server)))
        buyer = bought.start()
        bought.sometime()
        databases.control(server, "restart", "-m", how)
        return bought.finish(buyer)


for _how in ("fast", "immediate"):
    kind(f"postgres-restart-{_how}", 10, running=True)(partial(restarted, how=_how))
