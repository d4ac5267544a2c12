"""Eight processes that want the same 2,000 answers of one HTTP teacher, on both databases."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sqlite3
import time
import traceback
from collections import Counter

import pytest

from pipeline import teachers
from pipeline.config import params
from pipeline.config.teachers import OpenAICompatibleTeacher
from pipeline.judgments import database
from pipeline.judgments.claims.claims import LEASE_SECONDS
from pipeline.judgments.store import Store
from pipeline.teachers import protocol
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.purchase.buyer import Judging, Wanted
from pipeline.teachers.purchase.requests import Response
from tests.servers import Pure

SPAWN = multiprocessing.get_context("spawn")
PROCESSES, RESPONSES, SAMPLES = 8, 250, 8
BLOCK = 10  # responses that a process asks for together
FIRSTS = range(0, RESPONSES, 30)[:PROCESSES]  # where each process begins
FEW = 60  # responses, where a process is killed or stopped
# seconds: short; and longer than a busy machine keeps a holder from renewing it
LEASE, SURE_LEASE = 3.0, 10.0
LONGEST = 240.0  # seconds that a process may take


def on(*quick):
    """On both databases, which take half a minute each; those that are not `quick` where asked."""
    marks = {"sqlite": [], "postgres": [pytest.mark.team]}
    return pytest.mark.parametrize(
        "url",
        [
            pytest.param(name, marks=own if name in quick else [*own, pytest.mark.slow])
            for name, own in marks.items()
        ],
        indirect=True,
    )


@pytest.fixture
def url(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres")()
    return f"sqlite:///{tmp_path / 'judgments.sqlite'}"


def want(store_url, server_url, lease, count, first, results, barrier):
    """Ask for all answers, beginning with another response in each process; hand out the texts."""
    try:
        results.put((first, *wanted(store_url, server_url, lease, count, first, barrier)))
    except BaseException:
        results.put((first, traceback.format_exc(), 0))
        raise


def wanted(store_url, server_url, lease, count, first, barrier):
    config = OpenAICompatibleTeacher(
        kind="openai_compatible",
        model="stub-1",
        base_url=f"{server_url}/v1",
        concurrency=4,
        timeout_seconds=60.0,
    )
    asked = protocol.Asked("prefill", 1.0, "live", params.Runtime())
    database.IDLE_SECONDS = 2  # a holder that is stopped in a transaction
    with Store(store_url, str(first)) as store:
        store.claims.holding = functools.partial(store.claims.holding, lease=lease)
        teacher = teachers.load(config, "it", asked, None, None)
        judging = Judging(teacher, Wanted(SAMPLES, 6, 0, 2, 0.0, False), Budget(store))
        barrier.wait(LONGEST)
        texts = {}
        for start in range(first, first + count, BLOCK):
            numbers = [i % count for i in range(start, start + BLOCK)]
            block = [response(teacher, number) for number in numbers]
            found = judging.judge(block)
            texts |= {(numbers[r], sample): j.text for (r, _, sample), j in found.items()}
        return texts, judging.ledger.bought


def response(teacher, number):
    prompt = teacher.prompt([{"role": "user", "content": f"problem {number}"}], [], "so")
    return Response(str(number), {0: prompt}, {0: "so"})


@contextlib.contextmanager
def started(store_url, server_url, firsts, lease, count=RESPONSES):
    """Processes that have begun, and where their results come; none is left behind."""
    results, barrier = SPAWN.Queue(), SPAWN.Barrier(len(firsts) + 1)
    processes = [
        SPAWN.Process(
            target=want, args=(store_url, server_url, lease, count, first, results, barrier)
        )
        for first in firsts
    ]
    try:
        for process in processes:
            process.start()
        barrier.wait(LONGEST)  # not before the last has loaded what it needs
        yield processes, results
    finally:
        for process in processes:
            process.kill()
            process.join(60)


def all_the_same(results, processes, count=RESPONSES):
    found = [results.get(timeout=LONGEST) for _ in range(processes)]
    texts = [texts for _, texts, _ in found]
    assert [t for t in texts if isinstance(t, str)] == []  # tracebacks
    assert all(len(t) == count * SAMPLES for t in texts)
    assert all(t == texts[0] for t in texts)
    return found


def asked(server, count, process):
    """Wait until the server was asked `count` times, by a process that lives."""
    while len(server.requests) < count:
        assert process.is_alive()
        time.sleep(0.01)


@on("sqlite")
def test_eight_processes_buy_each_of_2000_answers_once(url):
    with (
        Pure().running() as server,
        started(url, server.url, FIRSTS, LEASE_SECONDS) as (_, results),
    ):
        found = all_the_same(results, PROCESSES)
    assert len(server.whole) == RESPONSES * SAMPLES
    assert set(server.whole.values()) == {1}
    bought = {first: n for first, _, n in found}
    assert sum(bought.values()) == RESPONSES * SAMPLES
    assert sum(n > 0 for n in bought.values()) > 1  # they shared the work
    with Store(url) as store:
        assert store.stats().answers == store.stats().bought == RESPONSES * SAMPLES


@on()
def test_calls_that_outlast_the_lease_are_not_bought_twice(url):
    def seconds(request):
        return 3 * LEASE if request["messages"][0]["content"] == "problem 0" else 0

    with (
        Pure(seconds).running() as server,
        started(url, server.url, FIRSTS, LEASE) as (_, results),
    ):
        all_the_same(results, PROCESSES)
    assert len(server.whole) == RESPONSES * SAMPLES
    assert set(server.whole.values()) == {1}


@on("postgres")
def test_when_a_holder_is_killed_only_what_it_had_in_flight_is_asked_again(url):
    with (
        Pure(seconds=0.01).running() as server,
        started(url, server.url, [0, 0], SURE_LEASE, FEW) as (processes, results),
    ):
        asked(server, 100, processes[0])
        processes[0].kill()
        (_, texts, _), *_ = all_the_same(results, 1, FEW)
    assert len(texts) == FEW * SAMPLES
    again = Counter(server.whole.values())
    assert set(again) <= {1, 2}
    assert again[2] <= 8  # four with the server, and four replies not yet committed


def stop_outside_of_a_write(process, store_url):
    """A stopped writer of SQLite keeps all others from writing for as long as it is stopped."""
    for _ in range(1000):
        os.kill(process.pid, signal.SIGSTOP)
        if not store_url.startswith("sqlite"):
            return  # Postgres ends its transaction
        file = store_url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as found:
            try:
                found.execute("begin immediate")
                return
            except sqlite3.OperationalError:  # in the midst of one
                os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.01)
    raise AssertionError("it writes all the time")


@on("sqlite", "postgres")
def test_a_holder_that_stood_still_longer_than_its_lease_buys_nothing_again(url):
    with (
        Pure(seconds=0.01).running() as server,
        started(url, server.url, [0], SURE_LEASE, FEW) as ((holder,), stopped),
    ):
        asked(server, 100, holder)
        stop_outside_of_a_write(holder, url)
        with started(url, server.url, [0], SURE_LEASE, FEW) as (_, results):
            ((_, texts, bought),) = all_the_same(results, 1, FEW)
        os.kill(holder.pid, signal.SIGCONT)
        ((_, again, _),) = all_the_same(stopped, 1, FEW)
    assert texts == again
    assert bought > 200
    twice = Counter(server.whole.values())
    assert set(twice) <= {1, 2}
    assert twice[2] <= 8  # four with the server, and four replies not yet committed
