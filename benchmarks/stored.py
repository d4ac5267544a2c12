"""A process with one store, for benchmarks.judgments: this code's, or that of an older commit.

    python benchmarks/stored.py URL ROWS [DRAWN]     with the code to measure first in PYTHONPATH

Fills the store at URL with ROWS answers, unless it has them, of texts and token ids that are drawn
for each, or for DRAWN of them; then obeys lines on its standard
input. It prints `ready`, and for each line two numbers: by the CPU time of the process, which other
work on the machine hardly changes, and by the clock.

find SEED       answers a second that are looked up, each at a prefix of its own, in random order
prefixes SEED   the same of all answers to random prefixes, as a round asks for them
add START       answers a second that are added in replies of 8, a transaction each
budget SEED     seconds of a look at what the project has spent
lines COUNT     into the ledger, as many replies' lines; seconds
claim SEED      seconds of the first claim of a process: what it checks before anything is bought
stats SEED      seconds of counting what the store holds
verify SEED     seconds of holding every row and total against what it should be
"""

import random
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from tqdm import tqdm

from benchmarks.judgments import HITS, LIMIT, REPLY, answers, replies
from pipeline.judgments.keys import Request
from pipeline.judgments.schema import Judgment, request_columns
from pipeline.judgments.store import Entry, Store

ADDED = 4000
Times = tuple[float, float]  # by CPU time, by the clock
FILLED = 10_000  # answers at a time
SAMPLER = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}


def main() -> None:
    url, rows = sys.argv[1], int(sys.argv[2])
    drawn = list(answers(0, int(sys.argv[3]))) if sys.argv[3:] else []
    with Store(url, "bench") as store:
        there = range(store.stats().answers, rows, FILLED)
        for first in tqdm(there, desc="fill", unit="chunk", disable=None):
            stop = min(first + FILLED, rows)
            if drawn:
                _fill(store, drawn, first, stop)
            else:
                store.adopt(list(answers(first, stop)))
        _say("ready")
        for line in sys.stdin:
            what, number = line.split()
            _say(" ".join(map(str, COMMANDS[what](store, rows, int(number)))))


def again(drawn: list[Judgment], start: int, stop: int) -> Iterator[Judgment]:
    """Answers of their own requests, with texts and token ids of those that were drawn."""
    for i in range(start, stop):
        like = drawn[i % len(drawn)]
        yield like._replace(**request_columns(_request(i)), seed_sent=i)


def _fill(store: Store, drawn: list[Judgment], start: int, stop: int) -> None:
    """What `store.adopt` makes of `again`, where each text is packed once: three times as fast.

    Raises RuntimeError where a row is not what the store itself makes of it.
    """
    from pipeline.judgments.rows import packed, places

    writer = store._writer
    if not hasattr(writer, "drawn"):
        writer.drawn = [writer.ready([one])[0].values for one in again(drawn, 0, len(drawn))]
    (own,) = writer.ready([*again(drawn, start, start + 1)])
    settings, attempt, limit = own.prefix[0], own.prefix[2], own.prefix[4]
    asked, ready = places.settings(_request(start)), []
    for i in range(start, stop):
        sample = i % REPLY
        if not sample or not ready:
            prompt = bytes.fromhex(_request(i).prompt_hash)
            keys = places.Keys(asked, prompt, attempt)
            prefix = (settings, prompt, attempt, i - sample, limit)
        *values, _ = writer.drawn[i % len(drawn)]
        values[3] = i  # seed_sent
        sum_ = packed.checksum(keys.key(sample, i), limit, (0, *values, b""))
        ready.append(type(own)(prefix, sample, (*values, sum_)))
    if ready[0] != own:
        raise RuntimeError(f"answer {start}: found {ready[0]}, wanted {own}")
    ready.sort(key=lambda one: (one.prefix, one.sample))
    store.database.write(lambda connection: writer.insert(connection, ready))


def _request(number: int) -> Request:
    """As benchmarks.judgments has it, also of commits where that is another."""
    sample = number % REPLY
    return Request("vllm", "m", f"p{number // REPLY}", "completions", SAMPLER, sample, number)


def asked(store: Store, number: int) -> Request | str:
    """What `Store.find` of this code wants of answer `number`; its key is known before."""
    found = _request(number)
    return found if found.key and hasattr(store, "rows") else found.key


def _find(store: Store, rows: int, seed: int) -> Times:
    return _looked_up(store, random.Random(seed).sample(range(rows), min(HITS, rows)))


def _prefixes(store: Store, rows: int, seed: int) -> Times:
    found = random.Random(seed).sample(range(rows // REPLY), min(HITS, rows) // REPLY)
    return _looked_up(store, [REPLY * p + sample for p in found for sample in range(REPLY)])


def _looked_up(store: Store, numbers: list[int]) -> Times:
    wanted = [asked(store, number) for number in numbers]

    def look() -> None:
        assert sum(1 for _ in store.find(wanted, LIMIT)) == len(wanted)

    look()  # the pages are in memory the second time
    return _rate(len(wanted), look)


def _add(store: Store, rows: int, start: int) -> Times:
    batches = list(replies(start, start + ADDED))
    paid = Entry(bought=REPLY, requests=1, tokens=1400, usd=1e-4)

    def add() -> None:
        for batch in batches:
            store.add(batch, paid)

    return _rate(ADDED, add)


def _budget(store: Store, rows: int, seed: int) -> Times:
    store.spent()  # the statement is made
    return _seconds(store.spent)


def _rate(count: int, work: Callable[[], object]) -> Times:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return count / (time.process_time() - cpu), count / (time.perf_counter() - wall)


def _lines(store: Store, rows: int, count: int) -> Times:
    """As if so many replies had been paid for, without their answers."""
    line = {"project": "bench", "reused": 0, "misses": 0, "bought": REPLY, "requests": 1}
    line |= {"tokens": 1400, "usd": 1e-4}

    def lines() -> None:
        if hasattr(store, "rows"):
            from pipeline.judgments import ledger
            from pipeline.judgments.schema import ENTRIES

            for first in range(0, count, FILLED):
                some = range(first, min(first + FILLED, count))
                with store.database.writing() as connection:
                    made = [line | {"created_at": float(i)} for i in some]
                    connection.execute(ENTRIES.insert(), made)
            with store.database.writing() as connection:
                ledger.recount(connection)
            return
        with closing(sqlite3.connect(store.name.removeprefix("sqlite:///"))) as file, file:
            marks = ", ".join(f":{name}" for name in (*line, "created_at"))
            insert = f"insert into ledger ({', '.join((*line, 'created_at'))}) values ({marks})"
            file.executemany(insert, (line | {"created_at": float(i)} for i in range(count)))

    return _seconds(lines)


def _verify(store: Store, rows: int, seed: int) -> Times:
    from pipeline.judgments import archive

    return _seconds(lambda: archive.verify(store))


def _claim(store: Store, rows: int, seed: int) -> Times:
    with Store(sys.argv[1], "bench") as fresh:
        return _seconds(
            lambda: getattr(fresh, "claims", fresh).claim(
                [asked(store, rows + 10**8 + seed)], LIMIT
            )
        )


def _stats(store: Store, rows: int, seed: int) -> Times:
    return _seconds(store.stats)


def _seconds(work: Callable[[], object]) -> Times:
    cpu, wall = _rate(1, work)
    return 1 / cpu, 1 / wall


COMMANDS = {
    "find": _find,
    "prefixes": _prefixes,
    "add": _add,
    "budget": _budget,
    "lines": _lines,
    "claim": _claim,
    "stats": _stats,
    "verify": _verify,
}


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
