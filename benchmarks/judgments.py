"""The judgment store on SQLite at a million answers, from one process.

    python -m benchmarks.judgments [ROWS]

look_up         answers/s of `Store.find`, all hits, in random order; peer: diskcache, the same
                answers as JSON under their keys, `get` one by one
look_up_floor   the same; peer: the same query by sqlite3 alone, 500 requests each, nothing parsed
look_up_memory  peak memory of a process that looks up 200,000 answers; peer: one that looks up
                20,000, so the ratio is the growth when the work grows 10 times
add             answers/s of `Store.add` in replies of 8, a transaction each; peer: diskcache `set`,
                8 in a transaction
bytes           of the file, an answer; peer: diskcache's file
look_up_before, prefixes_before, add_before, budget_before, claim_before, bytes_before
                of `Store.find` at prefixes in random order, one answer each, and at all 8 answers
                of each; of `Store.add` with its line of the ledger; seconds of a look at what the
                project has spent, with a line of the ledger for each reply; seconds of what a
                process checks before it buys; bytes an answer. Peer: this project at commit
                a5430f8, on a file of its own with the same answers, the two in turn
..._version2    the same; peer: commit c4dbe4f, the last of version 2 of the store
migrate         seconds in which that commit's file is brought into version 3; peer: seconds in
                which that commit verifies it
migrate_memory  peak memory of it; peer: at a tenth of the answers
shrunk          bytes an answer of that file then, after `omniopd judgments gc`; peer: before

Rates beside commits are by the CPU time of the two processes: other work ran on the machine.

Writes benchmarks/judgments.json: name, value, unit, peer, peer_value, ratio = ours / peer, better
(higher or lower), repeats, spread (the ratios' maximum - minimum). What benchmarks.judgments_scale
measured stays in it.
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
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
from tqdm import tqdm

from benchmarks import before
from pipeline.judgments.keys import Request
from pipeline.judgments.rows import lookup
from pipeline.judgments.schema import Judgment, request_columns
from pipeline.judgments.store import Store

ROWS, HITS, REPLY, REPEATS, LIMIT = 1_000_000, 20_000, 8, 5, 50
CHUNK = 500  # requests in a query of the floor, as in ours
VERSION2 = "c4dbe4f"
SAMPLER = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
REPORT = Path("benchmarks/judgments.json")
UNITS = {"budget": "s", "claim": "s"}  # of the others answers/s


def request(number: int) -> Request:
    prompt, sample = f"p{number // REPLY}", number % REPLY
    return Request("vllm", "m", prompt, "completions", SAMPLER, sample, number)


def answers(start: int, stop: int) -> Iterator[Judgment]:
    """Answers of about 200 characters with their token ids."""
    for i in range(start, stop):
        draw = random.Random(i)
        yield Judgment(
            **request_columns(request(i)),
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


def fill(store: Store, peer: diskcache.Cache, rows: int) -> None:
    """Both with `rows` equal answers."""
    for first in tqdm(range(0, rows, 10_000), desc="fill", unit="chunk", disable=None):
        found = list(answers(first, min(first + 10_000, rows)))
        store.adopt(found)
        with peer.transact():
            for judgment in found:
                peer[judgment.key] = json.dumps(judgment._asdict())


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


def look_up(store: Store, peer: diskcache.Cache, file: Path, rows: int) -> list[dict]:
    ours, floor = [], []
    text = lookup.sqlite(CHUNK, lookup.FOUND)
    with sqlite3.connect(file) as raw:
        for repeat in range(REPEATS):
            numbers = random.Random(repeat).sample(range(rows), min(HITS, rows) // CHUNK * CHUNK)
            wanted = [request(number) for number in numbers]
            keys = [one.key for one in wanted]

            def find(wanted: list[Request] = wanted) -> None:
                assert sum(1 for _ in store.find(wanted, LIMIT)) == len(wanted)

            def get(keys: list[str] = keys) -> None:
                assert sum(1 for key in keys if json.loads(peer[key])) == len(keys)

            def select(wanted: list[Request] = wanted) -> None:
                found = 0
                for first in range(0, len(wanted), CHUNK):
                    values: list[Any] = []
                    for n, one in enumerate(wanted[first : first + CHUNK]):
                        prompt = bytes.fromhex(one.prompt_hash)
                        values += [n, prompt, one.seed - one.sample, one.sample]
                    found += len(raw.execute(text, (*values, 1, 0, LIMIT)).fetchall())
                assert found == len(wanted)

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
                        peer[judgment.key] = json.dumps(judgment._asdict())

        pairs.append((rate(4000, ours), rate(4000, theirs)))
    return compared("add", "answers/s", "diskcache", pairs)


def peak(*words: str) -> float:
    """Peak MiB of a process that does one of `--look-up FILE COUNT` and `--open FILE`."""
    command = [sys.executable, "-m", "benchmarks.judgments", *words]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def alone(what: str, file: str, count: int = 0) -> None:
    with Store(f"sqlite:///{file}") as store:
        if what == "--look-up":
            assert sum(1 for _ in store.find(map(request, range(count)), LIMIT)) == count
    # not getrusage: a child's maximum there begins with its parent's
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    sys.stdout.write(f"{int(found[1]) / 1024}\n")


class Side:
    """A process with a store of its own, of one commit."""

    def __init__(self, folder: Path, commit: str, rows: int) -> None:
        """`commit`: "" for this code."""
        self.code, self.file = before.HERE, folder / f"{commit or 'now'}.sqlite"
        if commit:
            self.code = before.code(folder / commit, "pipeline", "benchmarks", commit=commit)
            shutil.copy(before.HERE / "benchmarks" / "stored.py", self.code / "benchmarks")
        command = [sys.executable, str(self.code / "benchmarks" / "stored.py")]
        self._process = subprocess.Popen(
            [*command, f"sqlite:///{self.file}", str(rows)],
            env={**os.environ, "PYTHONPATH": str(self.code)},
            text=True,
            cwd=self.code,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.rows = rows

    def __enter__(self) -> "Side":
        assert self._line() == "ready\n"
        self.bytes = self.file.stat().st_size / self.rows
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self, line: str) -> float:
        """What it says, by its CPU time."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return float(self._line().split()[0])

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def beside(folder: Path, rows: int) -> list[dict[str, Any]]:
    """This code beside both commits, on files with the same answers."""
    sides = [Side(folder, commit, rows) for commit in ("", before.COMMIT, VERSION2)]
    numbers = {
        "look_up": [f"find {seed}" for seed in range(2 * REPEATS)],
        "prefixes": [f"prefixes {seed}" for seed in range(2 * REPEATS)],
        "add": [f"add {rows + i * 4000}" for i in range(REPEATS)],
        "budget": [f"budget {i}" for i in range(REPEATS)],
        "claim": ["claim 1"],
    }
    found: dict[str, list[list[float]]] = {}
    with ExitStack() as stack:
        for side in sides:
            stack.enter_context(side)
        for what, lines in numbers.items():
            if what == "budget":
                for side in sides:
                    side.ask(f"lines {rows // REPLY}")
            found[what] = [[side.ask(line) for side in sides] for line in lines]
        found["bytes"] = [[side.bytes for side in sides]]
    report = []
    for i, (name, commit) in enumerate((("before", before.COMMIT), ("version2", VERSION2)), 1):
        for what, values in found.items():
            unit = "bytes an answer" if what == "bytes" else UNITS.get(what, "answers/s")
            better = "higher" if unit == "answers/s" else "lower"
            pairs = [(one[0], one[i]) for one in values]
            report.append(compared(f"{what}_{name}", unit, f"commit {commit}", pairs, better))
    return report


def migrated(folder: Path, rows: int) -> list[dict[str, Any]]:
    """The file of version 2 that `beside` left, brought into version 3; and one of a tenth."""
    file, few = folder / f"{VERSION2}.sqlite", folder / "few.sqlite"
    code = folder / VERSION2
    verify = "from pipeline.commands.judgments import verify; verify()"
    environment = {**os.environ, "PYTHONPATH": str(code), "JUDGMENTS_URL": f"sqlite:///{file}"}
    command = [sys.executable, "-c", verify]
    begin = time.perf_counter()
    subprocess.run(command, env=environment, cwd=code, check=True, stdout=subprocess.DEVNULL)
    verified = time.perf_counter() - begin
    shutil.copy(file, few)
    with sqlite3.connect(few) as raw:
        raw.execute("delete from judgments where rowid > ?", (rows // 10,))
    held = rows + REPEATS * 4000  # with those that were added
    size = file.stat().st_size / held
    begin = time.perf_counter()
    memory = peak("--open", str(file))
    taken = time.perf_counter() - begin
    pairs = [(memory, peak("--open", str(few)))]
    environment["PYTHONPATH"] = str(before.HERE)
    tidy = [sys.executable, "-c", "from pipeline.commands.judgments import gc; gc()"]
    subprocess.run(tidy, env=environment, cwd=before.HERE, check=True, stdout=subprocess.DEVNULL)
    shrunk = file.stat().st_size / held
    return [
        compared("migrate", "s", f"verify of commit {VERSION2}", [(taken, verified)], "lower"),
        compared("migrate_memory", "MiB", f"{rows // 10:,} answers", pairs, "lower"),
        compared("shrunk", "bytes an answer", "version 2", [(shrunk, size)], "lower"),
    ]


def write(**found: Any) -> None:
    """Into the report, where what else stands there stays."""
    kept = json.loads(REPORT.read_text()) if REPORT.is_file() else {}
    REPORT.write_text(json.dumps(kept | found, indent=1) + "\n")


def main() -> None:
    if sys.argv[1:2] and sys.argv[1].startswith("--"):
        alone(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
        return
    rows = int(sys.argv[1]) if sys.argv[1:] else ROWS
    with tempfile.TemporaryDirectory() as folder:
        found = beside(Path(folder), rows)
        found += migrated(Path(folder), rows)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "judgments.sqlite"
        peer = diskcache.Cache(f"{folder}/peer", size_limit=2**40, eviction_policy="none")
        with Store(f"sqlite:///{file}") as store, peer:
            fill(store, peer, rows)
            size = sum(path.stat().st_size for path in Path(folder, "peer").rglob("*"))
            bytes_ = [(file.stat().st_size / rows, size / rows)]
            found += look_up(store, peer, file, rows)
            found.append(add(store, peer, rows))
        few, many = rows // 50, rows // 5
        pairs = [
            (peak("--look-up", str(file), str(many)), peak("--look-up", str(file), str(few)))
            for _ in range(3)
        ]
        found.append(compared("look_up_memory", "MiB", f"{few:,} look-ups", pairs, "lower"))
        found.append(compared("bytes", "bytes an answer", "diskcache", bytes_, "lower"))
    write(rows=rows, results=found)
    for row in found:
        sys.stdout.write(
            f"{row['name']}: {row['value']:,.4g} {row['unit']}, {row['peer']} "
            f"{row['peer_value']:,.4g}, ratio {row['ratio']:.3g}, spread {row['spread']:.2g}\n"
        )


if __name__ == "__main__":
    main()
