"""Eight processes that want the same 2,000 answers of one HTTP teacher, on both databases."""

import functools
import multiprocessing
import os
import signal
import time
from collections import Counter

import pytest

from pipeline import params, teachers
from pipeline.asking import Judging, Wanted
from pipeline.budget import Budget
from pipeline.judgments.store import LEASE_SECONDS, Store
from pipeline.responses import Response
from tests.servers import Pure

SPAWN = multiprocessing.get_context("spawn")
PROCESSES, RESPONSES, SAMPLES = 8, 250, 8
BLOCK = 10  # responses that a process asks for together
FIRSTS = range(0, RESPONSES, 30)[:PROCESSES]  # where each process begins
LEASE = 3.0  # seconds: short, but longer than a busy machine keeps a holder from renewing it


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.team)])
def url(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres")()
    return f"sqlite:///{tmp_path / 'judgments.sqlite'}"


def want(store_url, server_url, lease, first, results, barrier):
    """Ask for all answers, beginning with another response in each process; hand out the texts."""
    config = params.OpenAICompatibleTeacher(
        kind="openai_compatible",
        model="stub-1",
        base_url=f"{server_url}/v1",
        concurrency=4,
        timeout_seconds=60.0,
    )
    asked = teachers.Asked("prefill", 1.0, "live", params.Runtime())
    with Store(store_url, str(first)) as store:
        store.holding = functools.partial(store.holding, lease=lease)
        teacher = teachers.load(config, "it", asked, None, None)
        judging = Judging(teacher, Wanted(SAMPLES, 6, 0, 2, 0.0, False), Budget(store))
        barrier.wait()
        texts = {}
        for start in range(first, first + RESPONSES, BLOCK):
            numbers = [i % RESPONSES for i in range(start, start + BLOCK)]
            block = [response(teacher, number) for number in numbers]
            found = judging.judge(block)
            texts |= {(numbers[r], sample): j.text for (r, _, sample), j in found.items()}
        results.put((first, texts, judging.ledger.bought))


def response(teacher, number):
    prompt = teacher.prompt([{"role": "user", "content": f"problem {number}"}], [], "so")
    return Response(str(number), {0: prompt}, {0: "so"})


def start(store_url, server_url, firsts, lease):
    results, barrier = SPAWN.Queue(), SPAWN.Barrier(len(firsts) + 1)
    processes = [
        SPAWN.Process(target=want, args=(store_url, server_url, lease, first, results, barrier))
        for first in firsts
    ]
    for process in processes:
        process.start()
    barrier.wait()  # not before the last has loaded what it needs
    return processes, results


def all_the_same(results, count):
    found = [results.get(timeout=240) for _ in range(count)]
    texts = [texts for _, texts, _ in found]
    assert all(len(t) == RESPONSES * SAMPLES for t in texts)
    assert all(t == texts[0] for t in texts)
    return found


def test_eight_processes_buy_each_of_2000_answers_once(url):
    with Pure().running() as server:
        processes, results = start(url, server.url, FIRSTS, LEASE_SECONDS)
        found = all_the_same(results, PROCESSES)
        for process in processes:
            process.join(60)
    assert len(server.whole) == RESPONSES * SAMPLES
    assert set(server.whole.values()) == {1}
    bought = {first: n for first, _, n in found}
    assert sum(bought.values()) == RESPONSES * SAMPLES
    assert sum(n > 0 for n in bought.values()) > 1  # they shared the work
    with Store(url) as store:
        assert store.stats().answers == store.stats().bought == RESPONSES * SAMPLES


def test_calls_that_outlast_the_lease_are_not_bought_twice(url):
    def seconds(request):
        return 3 * LEASE if request["messages"][0]["content"] == "problem 0" else 0

    with Pure(seconds).running() as server:
        processes, results = start(url, server.url, FIRSTS, LEASE)
        all_the_same(results, PROCESSES)
        for process in processes:
            process.join(60)
    assert len(server.whole) == RESPONSES * SAMPLES
    assert set(server.whole.values()) == {1}


def test_when_a_holder_is_killed_only_what_it_had_in_flight_is_asked_again(url):
    with Pure(seconds=0.01).running() as server:
        processes, results = start(url, server.url, [0, 0], LEASE)
        while len(server.requests) < 200:
            assert processes[0].is_alive()
            time.sleep(0.01)
        processes[0].kill()
        (_, texts, _), *_ = all_the_same(results, 1)
        processes[1].join(60)
    assert len(texts) == RESPONSES * SAMPLES
    again = Counter(server.whole.values())
    assert set(again) <= {1, 2}
    assert again[2] <= 8  # four with the server, and four replies not yet committed


def test_a_holder_that_stood_still_longer_than_its_lease_buys_nothing_again(url):
    with Pure(seconds=0.01).running() as server:
        (holder,), stopped = start(url, server.url, [0], LEASE)
        while len(server.requests) < 200:
            assert holder.is_alive()
            time.sleep(0.01)
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            (other,), results = start(url, server.url, [0], LEASE)
            ((_, texts, bought),) = all_the_same(results, 1)
        finally:
            os.kill(holder.pid, signal.SIGCONT)
        ((_, again, _),) = all_the_same(stopped, 1)
        holder.join(60)
        other.join(60)
    assert texts == again
    assert bought > 1000
    twice = Counter(server.whole.values())
    assert set(twice) <= {1, 2}
    assert twice[2] <= 8  # four with the server, and four replies not yet committed
