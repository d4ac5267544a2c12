"""Faults while answers are bought over HTTP: signals, clocks, bad lines, databases.

A buyer is a process that asks a counting server on loopback for all answers of a few prompts. The
server says what was bought; the store, what was kept.
"""

import functools
import json
import multiprocessing
import os
import signal
import sqlite3
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from pipeline import teachers
from pipeline.config import params
from pipeline.config.teachers import OpenAICompatibleTeacher
from pipeline.judgments import database, retries, spool
from pipeline.judgments.claims.held import Held
from pipeline.judgments.store import Store
from pipeline.teachers import protocol
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.purchase.buyer import Judging, Wanted
from pipeline.teachers.purchase.requests import Response
from tests.chaos.counted import HANG_SECONDS, MARK, Outcome, Place, kind, wait_until
from tests.servers import BadLine, Pure

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    ["tests.chaos.buying", "pipeline.teachers.providers.openai_compatible", "openai.resources.chat"]
)
RESPONSES, SAMPLES, LIMIT, BLOCK = 24, 4, 6, 6
LEASE = 3.0  # seconds: short, but longer than a busy machine keeps a holder from renewing it
CONCURRENCY = 4


class Counting(Pure):
    """A server that knows what is in flight."""

    def arrived(self) -> int:
        return sum(self.whole.values())

    def pending(self) -> set[tuple]:
        """Requests that came and whose replies are not whole yet."""
        with self.lock:
            came = Counter((json.dumps(r["messages"]), r.get("seed")) for r in self.requests)
            return {key for key, count in came.items() if count > self.whole[key]}


def buy(store_url, server_url, folder, mark, results, offset, unguarded=()):
    """Ask for all answers and put their texts, or what went wrong, into `results`."""
    os.environ[MARK] = mark
    real = time.time
    time.time = lambda: real() + offset.value  # the clock of this process, which may be stepped
    for name in unguarded:
        switch_off(name)
    config = OpenAICompatibleTeacher(
        kind="openai_compatible",
        model="stub-1",
        base_url=f"{server_url}/v1",
        concurrency=CONCURRENCY,
        timeout_seconds=600.0 if "timeouts" in unguarded else 5.0,
    )
    asked = protocol.Asked("prefill", 1.0, "live", params.Runtime())
    try:
        with Store(store_url, "chaos", None if "spool" in unguarded else Path(folder)) as store:
            store.claims.holding = functools.partial(store.claims.holding, lease=LEASE)
            teacher = teachers.load(config, "it", asked, None, None)
            judging = Judging(teacher, Wanted(SAMPLES, LIMIT, 0, 3, 0.5, False), Budget(store))
            texts = {}
            for start in range(0, RESPONSES, BLOCK):
                numbers = range(start, start + BLOCK)
                block = [response(teacher, number) for number in numbers]
                found = judging.judge(block)
                texts |= {(numbers[r], sample): j.text for (r, _, sample), j in found.items()}
        results.put(texts)
    except BaseException:
        results.put(traceback.format_exc())
        raise


def response(teacher, number):
    prompt = teacher.prompt([{"role": "user", "content": f"problem {number}"}], [], "so")
    return Response(str(number), {0: prompt}, {0: "so"})


def switch_off(guard: str) -> None:
    """Take a guard out of this process, so that what it guards against is counted."""
    if guard == "claims":  # a holder goes on without asking what it still holds
        Held.still = lambda held, keys: set(keys)
    elif guard == "spool":  # what cannot be stored at once is dropped
        retries.RETRY_SECONDS, database.BUSY_SECONDS = 0.2, 0.1


class Buyer:
    """A process that buys, and what came of it."""

    def __init__(self, place: Place, store_url: str, server_url: str, unguarded=()) -> None:
        self.results = FORKED.SimpleQueue()
        self.offset = FORKED.Value("d", 0.0)
        folder = str(place.folder / ".spool")
        args = (store_url, server_url, folder, place.mark, self.results, self.offset, unguarded)
        self.process: BaseProcess = FORKED.Process(target=buy, args=args)
        self.process.start()

    def ended(self, seconds: float = HANG_SECONDS) -> bool:
        self.process.join(seconds)
        return not self.process.is_alive()

    @functools.cached_property
    def texts(self) -> dict | None:
        """All texts of a buyer that ended with exit 0; None of another."""
        return self.results.get() if self.process.exitcode == 0 else None

    def said(self) -> str:
        return "" if self.results.empty() else str(self.results.get())

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


@functools.cache
def undisturbed() -> dict:
    """The texts of a run without a fault."""
    import tempfile
    from random import Random

    with tempfile.TemporaryDirectory() as folder, Counting().running() as server:
        place = Place(Path(folder), Random(0))
        buyer = Buyer(place, f"sqlite:///{folder}/j.sqlite", server.url)
        assert buyer.ended()
        found = buyer.texts
        assert found is not None, buyer.said()
        assert len(found) == RESPONSES * SAMPLES
        return found


class Purchase:
    """A store, a server and buyers; counts what a fault did to them."""

    def __init__(self, place: Place, store_url: str, server: Counting, asked: str, unguarded=()):
        self.place, self.store_url, self.server = place, store_url, server
        self.asked, self.unguarded = asked, unguarded
        self.outcome = Outcome()
        self.excused: set[tuple] = set()  # in flight at a fault
        self.uncommitted = 0  # replies that a killed buyer may have had and not yet committed
        self.buyers: list[Buyer] = []

    def start(self) -> Buyer:
        buyer = Buyer(self.place, self.store_url, self.asked, self.unguarded)
        self.buyers.append(buyer)
        return buyer

    def sometime(self) -> None:
        """Wait until a random share of all answers has been bought."""
        wanted = self.place.draw.randint(1, RESPONSES * SAMPLES * 3 // 4)
        if not wait_until(lambda: self.server.arrived() >= wanted):
            self.outcome.told.append(f"only {self.server.arrived()} of {wanted} were bought")
            self.outcome.hangs += 1

    def excuse(self, killed: bool) -> None:
        """What is in flight now may be asked for again; after a kill, what just came as well."""
        self.excused |= self.server.pending()
        if killed:
            self.uncommitted += 2 * CONCURRENCY

    def broken_off(self) -> None:
        """A buyer has ended early: what it had been given and is kept nowhere is lost."""
        arrived = len(self.server.whole)
        with Store(self.store_url) as store:
            stored = store.stats().answers
        kept = sum(
            len(one.judgments)
            for path in self.place.folder.glob(".spool/*.jsonl")
            for one, _ in spool.read(path).kept
        )
        self.outcome.lost += max(0, arrived - stored - kept - self.uncommitted)

    def finish(self, buyer: Buyer | None = None) -> Outcome:
        """Let one buyer come to its end, another where that one is broken off, and count."""
        buyer = buyer or self.start()
        limit = HANG_SECONDS + LEASE
        if buyer.ended(limit) and buyer.process.exitcode:
            self.outcome.told.append(buyer.said()[-2000:])
            self.broken_off()
            buyer = self.start()
        if not buyer.ended(limit):
            self.outcome.hangs += 1
            self.outcome.told.append("a buyer did not come to its end")
            buyer.kill()
        elif buyer.texts is None:
            self.outcome.hangs += 1  # it never comes to its end
            self.outcome.told.append(buyer.said()[-2000:])
        self.compare(buyer)
        self.count()
        return self.outcome

    def compare(self, buyer: Buyer) -> None:
        """The texts of a buyer that ended well are those of an undisturbed one."""
        if buyer.texts is not None:
            self.outcome.silent += sum(buyer.texts.get(k) != v for k, v in undisturbed().items())

    def count(self) -> None:
        """Answers that were bought twice, and those that the store does not have in the end."""
        again = {key for key, count in self.server.whole.items() if count > 1} - self.excused
        self.outcome.bought_twice += max(0, len(again) - self.uncommitted)
        with Store(self.store_url) as store:
            stored = store.stats().answers
        self.outcome.lost += max(0, RESPONSES * SAMPLES - stored)
        for buyer in self.buyers:
            if buyer.process.is_alive():
                buyer.kill()
        left = self.place.left()
        self.outcome.processes_left += len(left)
        self.outcome.told += left


@contextmanager
def purchase(
    place: Place, store_url: str | None = None, line: str = "", stall: float = 5.5, **more
) -> Iterator[Purchase]:
    """A purchase over a good line, or one with faults of the kind `line`."""
    url = store_url or f"sqlite:///{place.folder / 'judgments.sqlite'}"
    server = Counting(seconds=0.01)
    with ExitStack() as stack:
        stack.enter_context(server.running())
        asked = server.url
        if line:
            bad = BadLine(server.url, 0.1, seed=place.draw.randrange(2**31), stall=stall)
            bad.FAULTS = (line,)
            asked = stack.enter_context(bad.running()).url
        yield Purchase(place, url, server, asked, **more)


# faults of a buyer's process, on both databases


def signalled(place: Place, store_url: str | None, number: int, unguarded=()) -> Outcome:
    """A signal that ends the buyer at a random moment; another goes on."""
    with purchase(place, store_url, unguarded=unguarded) as bought:
        buyer = bought.start()
        bought.sometime()
        bought.excuse(killed=True)
        os.kill(buyer.process.pid, number)
        if not buyer.ended():
            bought.outcome.hangs += 1
            bought.outcome.told.append(f"a buyer outlived signal {number}")
            buyer.kill()
        bought.broken_off()
        return bought.finish()


def stopped(place: Place, store_url: str | None, unguarded=()) -> Outcome:
    """A buyer stands still for longer than its lease while another buys."""
    with purchase(place, store_url, unguarded=unguarded) as bought:
        first = bought.start()
        bought.sometime()
        os.kill(first.process.pid, signal.SIGSTOP)
        if store_url is None:
            outside_of_transactions(place, first)
        bought.excuse(killed=True)  # what it had been told, it can commit when it wakes
        second = bought.start()
        second.ended(HANG_SECONDS + LEASE)
        os.kill(first.process.pid, signal.SIGCONT)
        bought.compare(second)
        return bought.finish(first)


def outside_of_transactions(place: Place, buyer: Buyer) -> None:
    """Let a stopped buyer go on until it stands where it does not keep SQLite's file locked."""
    with closing(sqlite3.connect(place.folder / "judgments.sqlite", timeout=0)) as connection:
        connection.isolation_level = None
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
                return
            except sqlite3.OperationalError:
                os.kill(buyer.process.pid, signal.SIGCONT)
                time.sleep(0.005)
                os.kill(buyer.process.pid, signal.SIGSTOP)


@kind("buyer-kill-sqlite", 20, running=True)
def _(place: Place) -> Outcome:
    return signalled(place, None, signal.SIGKILL)


@kind("buyer-term-sqlite", 12, running=True)
def _(place: Place) -> Outcome:
    return signalled(place, None, signal.SIGTERM)


@kind("buyer-hup-sqlite", 12, running=True)
def _(place: Place) -> Outcome:
    return signalled(place, None, signal.SIGHUP)


@kind("buyer-interrupt-sqlite", 12, running=True)
def _(place: Place) -> Outcome:
    return signalled(place, None, signal.SIGINT)


@kind("buyer-stop-sqlite", 12, running=True)
def _(place: Place) -> Outcome:
    return stopped(place, None)


@kind("one-of-two-buyers-killed-sqlite", 12, running=True)
def _(place: Place) -> Outcome:
    return one_of_two(place, None)


def one_of_two(place: Place, store_url: str | None) -> Outcome:
    with purchase(place, store_url) as bought:
        first, second = bought.start(), bought.start()
        bought.sometime()
        bought.excuse(killed=True)
        first.kill()
        return bought.finish(second)


@kind("buyer-clock-ahead", 12, running=True)
def _(place: Place) -> Outcome:
    return stepped(place, +3600.0)


@kind("buyer-clock-back", 12, running=True)
def _(place: Place) -> Outcome:
    return stepped(place, -3600.0)


def stepped(place: Place, seconds: float, store_url: str | None = None) -> Outcome:
    """The clock of one of two buyers is stepped by an hour."""
    with purchase(place, store_url) as bought:
        first, second = bought.start(), bought.start()
        bought.sometime()
        first.offset.value = seconds
        bought.excuse(killed=False)
        second.ended(HANG_SECONDS + LEASE)
        return bought.finish(first)


# bad lines: a tenth of the requests ends in one kind of failure


def bad_line(place: Place, line: str) -> Outcome:
    with purchase(place, line=line) as bought:
        buyer = bought.start()
        buyer.ended(3 * HANG_SECONDS)
        if line == "half":  # the server sent it whole: what broke off may be asked for again
            bought.excused |= set(bought.server.whole)
        return bought.finish(buyer)


for _line in BadLine.FAULTS:
    kind(f"line-{_line}", 10, running=True)(functools.partial(bad_line, line=_line))


# faults of the database


@kind("sqlite-locked", 12, running=True)
def _(place: Place) -> Outcome:
    return locked(place, place.draw.uniform(1, 8))


def locked(place: Place, seconds: float, unguarded=()) -> Outcome:
    """Another process keeps the file locked for a while."""
    with purchase(place, unguarded=unguarded) as bought:
        buyer = bought.start()
        bought.sometime()
        path = place.folder / "judgments.sqlite"
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.isolation_level = None
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            connection.execute("ROLLBACK")
        return bought.finish(buyer)
