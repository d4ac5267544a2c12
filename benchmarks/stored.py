"""A process with one store, for benchmarks.judgments: this code's, or that of an older commit.

    python benchmarks/stored.py URL ROWS     with the code to measure first in PYTHONPATH

Fills the store at URL with ROWS answers, unless it has them, then obeys lines on its standard
input. It prints `ready`, and for each line a number:

find SEED       answers a second that are looked up, each at a prefix of its own, in random order
prefixes SEED   the same of all answers to random prefixes, as a round asks for them
add START       answers a second that are added in replies of 8, a transaction each
budget SEED     seconds of a look at what the project has spent
"""

import random
import sys
import time

from benchmarks.judgments import HITS, LIMIT, REPLY, answers, replies
from pipeline.judgments.keys import Request
from pipeline.judgments.store import Entry, Store

ADDED = 4000
FILLED = 10_000  # answers at a time
SAMPLER = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}


def main() -> None:
    url, rows = sys.argv[1], int(sys.argv[2])
    with Store(url if "://" in url else f"sqlite:///{url}", "bench") as store:
        for first in range(store.stats().answers, rows, FILLED):
            store.adopt(list(answers(first, min(first + FILLED, rows))))
        _say("ready")
        for line in sys.stdin:
            what, number = line.split()
            _say(str(COMMANDS[what](store, rows, int(number))))


def asked(store: Store, number: int) -> Request | str:
    """What `Store.find` of this code wants of answer `number`; its key is known before."""
    found = Request(
        "vllm", "m", f"p{number // REPLY}", "completions", SAMPLER, number % REPLY, number
    )
    return found if found.key and hasattr(store, "rows") else found.key


def _find(store: Store, rows: int, seed: int) -> float:
    return _looked_up(store, random.Random(seed).sample(range(rows), min(HITS, rows)))


def _prefixes(store: Store, rows: int, seed: int) -> float:
    found = random.Random(seed).sample(range(rows // REPLY), min(HITS, rows) // REPLY)
    return _looked_up(store, [REPLY * p + sample for p in found for sample in range(REPLY)])


def _looked_up(store: Store, numbers: list[int]) -> float:
    wanted = [asked(store, number) for number in numbers]
    for _ in range(2):  # the pages are in memory the second time
        begin = time.perf_counter()
        assert sum(1 for _ in store.find(wanted, LIMIT)) == len(wanted)
        taken = time.perf_counter() - begin
    return len(wanted) / taken


def _add(store: Store, rows: int, start: int) -> float:
    batches = list(replies(start, start + ADDED))
    paid = Entry(bought=REPLY, requests=1, tokens=1400, usd=1e-4)
    begin = time.perf_counter()
    for batch in batches:
        store.add(batch, paid)
    return ADDED / (time.perf_counter() - begin)


def _budget(store: Store, rows: int, seed: int) -> float:
    begin = time.perf_counter()
    store.spent()
    return time.perf_counter() - begin


COMMANDS = {"find": _find, "prefixes": _prefixes, "add": _add, "budget": _budget}


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
