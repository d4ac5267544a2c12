"""A process with one store, for benchmarks.judgments: this code's, or that of an older commit.

    python benchmarks/stored.py FILE ROWS     with the code to measure first in PYTHONPATH

Fills FILE with ROWS answers, then obeys lines on its standard input: `find SEED`, `add START`. It
prints `ready`, and for each line answers a second.
"""

import random
import sys
import time

from benchmarks.judgments import HITS, LIMIT, answers, replies
from pipeline.judgments.store import Store

ADDED = 4000


def main() -> None:
    file, rows = sys.argv[1], int(sys.argv[2])
    with Store(f"sqlite:///{file}") as store:
        keys = []
        for first in range(0, rows, 10_000):
            found = list(answers(first, min(first + 10_000, rows)))
            store.adopt(found)
            keys += [judgment.key for judgment in found]
        _say("ready")
        for line in sys.stdin:
            what, number = line.split()
            _say(str(_find(store, keys, int(number)) if what == "find" else _add(store, number)))


def _find(store: Store, keys: list[str], seed: int) -> float:
    wanted = random.Random(seed).sample(keys, min(HITS, len(keys)))
    for _ in range(2):  # the pages are in memory the second time
        begin = time.perf_counter()
        assert sum(1 for _ in store.find(wanted, LIMIT)) == len(wanted)
        taken = time.perf_counter() - begin
    return len(wanted) / taken


def _add(store: Store, start: str) -> float:
    batches = list(replies(int(start), int(start) + ADDED))
    begin = time.perf_counter()
    for batch in batches:
        store.add(batch)
    return ADDED / (time.perf_counter() - begin)


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
