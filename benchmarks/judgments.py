"""Look-ups of stored answers, on SQLite at a million rows, from one process.

    python -m benchmarks.judgments [ROWS]

look_up         answers/s of `Store.find`, all hits, in random order; peer: diskcache, the same
                answers as JSON under the same keys, `get` one by one
look_up_floor   the same; peer: the same rows by sqlite3 alone, 500 keys a query, nothing parsed
look_up_memory  peak memory of a process that looks up 200,000 answers; peer: one that looks up
                20,000, so the ratio is the growth when the work grows 10 times
add             answers/s of `Store.add` in replies of 8, a transaction each; peer: diskcache `set`,
                8 in a transaction
bytes           of the file, an answer; peer: diskcache's file
look_up_before, add_before
                the same of `Store.find` and `Store.add`; peer: this project at commit a5430f8, on a
                file of its own with the same answers, the two in turn

Writes benchmarks/judgments.json: name, value, unit, peer, peer_value, ratio = ours / peer, better
(higher or lower), repeats, spread (the ratios' maximum - minimum).
"""

import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
from tqdm import tqdm

from benchmarks import before
from pipeline.judgments.keys import Request
from pipeline.judgments.schema import Judgment, request_columns
from pipeline.judgments.store import Store

ROWS, HITS, REPLY, REPEATS, LIMIT = 1_000_000, 20_000, 8, 5, 50
CHUNK = 500  # keys in a query of the floor, as in ours


def answers(start: int, stop: int) -> Iterator[Judgment]:
    """Answers of about 200 characters with their token ids."""
    sampler = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    for i in range(start, stop):
        draw = random.Random(i)
        request = Request("vllm", "m", f"p{i // REPLY}", "completions", sampler, i % REPLY, i)
        yield Judgment(
            **request_columns(request),
            token_limit=LIMIT,
            text="".join(draw.choices("0123456789+= abcdefghij", k=200)),
            token_ids=tuple(draw.choices(range(150_000), k=LIMIT)),
            ended=False,
            finish_reason="length",
            model_returned="m",
            prompt_tokens=1000,
            completion_tokens=LIMIT,
            failure=None,
            requested_n=REPLY,
            seed_sent=i,
            usd=0.0,
            created_at=time.time(),
        )


def replies(start: int, stop: int) -> Iterator[list[Judgment]]:
    for first in range(start, stop, REPLY):
        yield list(answers(first, min(first + REPLY, stop)))


def fill(store: Store, peer: diskcache.Cache, rows: int) -> list[str]:
    """Both with `rows` equal answers; returns the keys."""
    keys = []
    for first in tqdm(range(0, rows, 10_000), desc="fill", unit="chunk", disable=None):
        found = list(answers(first, min(first + 10_000, rows)))
        store.adopt(found)
        with peer.transact():
            for judgment in found:
                peer[judgment.key] = json.dumps(asdict(judgment))
        keys += [judgment.key for judgment in found]
    return keys


def compared(
    name: str, unit: str, peer: str, pairs: list[tuple[float, float]], better: str = "higher"
) -> dict[str, Any]:
    ratios = [ours / theirs for ours, theirs in pairs]
    return {
        "name": name,
        "value": float(np.median([ours for ours, _ in pairs])),
        "unit": unit,
        "peer": peer,
        "peer_value": float(np.median([theirs for _, theirs in pairs])),
        "ratio": float(np.median(ratios)),
        "better": better,
        "repeats": len(pairs),
        "spread": max(ratios) - min(ratios),
    }


def rate(count: int, work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return count / (time.perf_counter() - begin)


def look_up(store: Store, peer: diskcache.Cache, file: Path, keys: list[str]) -> list[dict]:
    ours, floor = [], []
    with sqlite3.connect(file) as raw:
        for repeat in range(REPEATS):
            wanted = random.Random(repeat).sample(keys, min(HITS, len(keys)))

            def find(wanted: list[str] = wanted) -> None:
                assert sum(1 for _ in store.find(wanted, LIMIT)) == len(wanted)

            def get(wanted: list[str] = wanted) -> None:
                assert sum(1 for key in wanted if json.loads(peer[key])) == len(wanted)

            def select(wanted: list[str] = wanted) -> None:
                marks = ",".join("?" * CHUNK)
                query = f"select * from judgments where key in ({marks})"
                rows = 0
                for first in range(0, len(wanted), CHUNK):
                    chunk = sorted(wanted[first : first + CHUNK])
                    chunk += [chunk[-1]] * (CHUNK - len(chunk))
                    rows += len(raw.execute(query, chunk).fetchall())
                assert rows == len(wanted)

            find(), get(), select()  # the pages are in memory for all three
            found = rate(len(wanted), find)
            ours.append((found, rate(len(wanted), get)))
            floor.append((found, rate(len(wanted), select)))
    return [
        compared("look_up", "answers/s", "diskcache", ours),
        compared("look_up_floor", "answers/s", "sqlite3 alone", floor),
    ]


def add(store: Store, peer: diskcache.Cache, rows: int) -> dict[str, Any]:
    pairs = []
    for repeat in range(REPEATS):
        start = rows + repeat * 4000
        batches = list(replies(start, start + 4000))

        def ours(batches: list[list[Judgment]] = batches) -> None:
            for batch in batches:
                store.add(batch)

        def theirs(batches: list[list[Judgment]] = batches) -> None:
            for batch in batches:
                with peer.transact():
                    for judgment in batch:
                        peer[judgment.key] = json.dumps(asdict(judgment))

        pairs.append((rate(4000, ours), rate(4000, theirs)))
    return compared("add", "answers/s", "diskcache", pairs)


def memory(file: Path, count: int) -> float:
    """Peak MiB of a process that looks up `count` of the answers."""
    command = [sys.executable, "-m", "benchmarks.judgments", "--look-up", str(file), str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def only_look_up(file: str, count: int) -> None:
    with sqlite3.connect(file) as raw:
        keys = (key for (key,) in raw.execute("select key from judgments limit ?", [count]))
        with Store(f"sqlite:///{file}") as store:
            assert sum(1 for _ in store.find(keys, LIMIT)) == count
    # not getrusage: a child's maximum there begins with its parent's
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    sys.stdout.write(f"{int(peak[1]) / 1024}\n")


def compared_with_before(folder: Path, rows: int) -> list[dict[str, Any]]:
    old = before.code(folder / "code", "pipeline", "benchmarks")
    shutil.copy(before.HERE / "benchmarks" / "stored.py", old / "benchmarks")
    with ExitStack() as stack:
        both = [
            stack.enter_context(_stored(code, folder / f"{name}.sqlite", rows))
            for name, code in (("now", before.HERE), ("before", old))
        ]
        for one in both:
            _answer(one)
        starts = range(rows, rows + REPEATS * 4000, 4000)
        found = [
            [tuple(float(_answer(one, line)) for one in both) for line in lines]
            for lines in (
                [f"find {seed}" for seed in range(2 * REPEATS)],
                [f"add {start}" for start in starts],
            )
        ]
    peer = f"commit {before.COMMIT}"
    return [
        compared(name, "answers/s", peer, pairs)
        for name, pairs in zip(("look_up_before", "add_before"), found, strict=True)
    ]


def _stored(code: Path, file: Path, rows: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(code / "benchmarks" / "stored.py"), str(file), str(rows)]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, cwd=code, **pipes)


def _answer(process: subprocess.Popen[str], line: str = "") -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    return process.stdout.readline()


def main() -> None:
    if sys.argv[1:2] == ["--look-up"]:
        only_look_up(sys.argv[2], int(sys.argv[3]))
        return
    rows = int(sys.argv[1]) if sys.argv[1:] else ROWS
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "judgments.sqlite"
        peer = diskcache.Cache(f"{folder}/peer", size_limit=2**40, eviction_policy="none")
        with Store(f"sqlite:///{file}") as store, peer:
            keys = fill(store, peer, rows)
            size = sum(path.stat().st_size for path in Path(folder, "peer").rglob("*"))
            bytes_ = [(file.stat().st_size / rows, size / rows)]
            found = look_up(store, peer, file, keys)
            found.append(add(store, peer, rows))
        few, many = rows // 50, rows // 5
        pairs = [(memory(file, many), memory(file, few)) for _ in range(3)]
        found.append(compared("look_up_memory", "MiB", f"{few:,} look-ups", pairs, "lower"))
        found.append(compared("bytes", "bytes an answer", "diskcache", bytes_, "lower"))
    with tempfile.TemporaryDirectory() as folder:
        found += compared_with_before(Path(folder), rows)
    report = {"rows": rows, "results": found}
    Path("benchmarks/judgments.json").write_text(json.dumps(report, indent=1) + "\n")
    for row in found:
        sys.stdout.write(
            f"{row['name']}: {row['value']:,.0f} {row['unit']}, {row['peer']} "
            f"{row['peer_value']:,.0f}, ratio {row['ratio']:.2f}, spread {row['spread']:.2f}\n"
        )


if __name__ == "__main__":
    main()
