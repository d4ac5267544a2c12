"""Inject faults by seed, count what they did, and write benchmarks/chaos.json.

    python -m tests.chaos [--kinds NAME ...] [--faults N]

A run that was broken off goes on where it stopped, at the same commit. With `--kinds` or `--faults`
only those are injected, and nothing is written.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from tests import signals
from tests.chaos import every
from tests.chaos.counted import KINDS, Kind, Outcome, Place
from tests.project import ROOT

SEED = 20261129
STATE = ROOT / ".chaos"  # ignored by git: what an unfinished run has done
RESULT = ROOT / "benchmarks" / "chaos.json"
COUNTERS = ("lost", "bought_twice", "silent", "processes_left", "hangs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--faults", type=int, help="of each kind at most")
    parser.add_argument("--parallel", type=int, default=3)  # faults wait a lot
    args = parser.parse_args()
    signals.as_in_a_terminal()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what runs is ended
    whole = args.faults is None and set(args.kinds) == set(KINDS)
    faults = [
        (KINDS[name], number)
        for name in args.kinds
        for number in range(min(args.faults or KINDS[name].count, KINDS[name].count))
    ]
    random.Random(SEED).shuffle(faults)  # so that heavy kinds do not all run side by side
    commit = commit_of()
    path = STATE / f"{commit}.jsonl"
    done = read(path) if whole else {}
    left = [(k, n) for k, n in faults if f"{k.name}/{n}" not in done]
    STATE.mkdir(exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(every.ready())
        state = stack.enter_context((path if whole else Path(os.devnull)).open("a"))
        pool = stack.enter_context(ThreadPoolExecutor(args.parallel))
        outcomes = tqdm(pool.map(timed, left), total=len(left), unit="fault", smoothing=0)
        for (found, number), (outcome, seconds) in zip(left, outcomes, strict=True):
            name = f"{found.name}/{number}"
            done[name] = asdict(outcome) | {"seconds": seconds}
            state.write(json.dumps({"name": name, **done[name]}) + "\n")
            state.flush()
            if not outcome.clean:
                told = "\n    ".join(outcome.told)
                tqdm.write(f"{name}: {outcome.counts()}\n    {told}")
    result = summed(done, commit)
    sys.stdout.write(json.dumps(result) + "\n")
    if whole:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        path.unlink()
    if any(result[name] for name in COUNTERS):
        sys.exit(1)


def timed(fault: tuple[Kind, int]) -> tuple[Outcome, float]:
    begin = time.monotonic()
    outcome = injected(*fault)
    return outcome, round(time.monotonic() - begin, 2)


def injected(found: Kind, number: int) -> Outcome:
    """One fault, in a folder of its own, drawn by the seed, its kind and its number."""
    draw = random.Random(hashlib.sha256(f"{SEED} {found.name} {number}".encode()).digest())
    folder = Path(tempfile.mkdtemp(prefix="omniopd-chaos-"))
    place = Place(folder, draw)
    try:
        return found.inject(place)
    except Exception:  # noqa: BLE001 - what breaks the harness itself is counted, never passed over
        return Outcome(silent=1, told=[traceback.format_exc()])
    finally:
        place.left(0)
        shutil.rmtree(folder, ignore_errors=True)


def read(path: Path) -> dict[str, dict]:
    return {line["name"]: line for line in lines(path)} if path.is_file() else {}


def lines(path: Path) -> Iterator[dict]:
    for text in path.read_text().splitlines():
        try:
            yield json.loads(text)
        except json.JSONDecodeError:  # killed while it was written
            return


def summed(done: dict[str, dict], commit: str) -> dict:
    kinds = {name.partition("/")[0] for name in done}
    return {
        "faults": len(done),
        "kinds": len(kinds),
        **{name: sum(found[name] for found in done.values()) for name in COUNTERS},
        "running": sum(KINDS[name.partition("/")[0]].running for name in done),
        "flips": sum(KINDS[name.partition("/")[0]].flip for name in done),
        "seconds": round(sum(found["seconds"] for found in done.values())),
        "commit": commit,
    }


def commit_of() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
