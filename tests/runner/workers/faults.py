"""Faults at random moments of a run on two workers, by seed: what it leaves is that of plain `dvc
repro`, and no process.

    python -m tests.runner.workers.faults [--kinds NAME ...] [--faults N]

A line of JSON for each fault, and a summary. Ray's health check is as it is by default.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.runner.workers import sleeping
from tests.runner.workers.cluster import Hosts, alone, locks, outs
from tests.telling import gone, wait_for

SEED = 20261130
CELL_SECONDS, ROUNDS = 3.0, 2
MORE_ROUNDS = {"worker-thaws": 5}  # so that the plan is not done when the worker moves on
SPAN_SECONDS = 25.0  # after the first cell began, in which the fault comes
AWAY_SECONDS, FROZEN_SECONDS = 30.0, 120.0
HANGS_SECONDS = 900.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--faults", type=int, default=10, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    args = parser.parse_args()
    bad = 0
    for number in range(args.first, args.first + args.faults):
        for name in args.kinds:
            found = injected(name, number)
            bad += bool(found["wrong"])
            sys.stdout.write(json.dumps({"kind": name, "number": number, **found}) + "\n")
            sys.stdout.flush()
    sys.exit(f"{bad} faults changed something" if bad else 0)


def injected(name: str, number: int) -> dict[str, Any]:
    """One fault in a folder of its own: when it came, seconds of the run, what went wrong."""
    draw = random.Random(hashlib.sha256(f"{SEED} {name} {number}".encode()).digest())
    folder = Path(tempfile.mkdtemp(prefix="omniopd-workers-"))
    hosts = Hosts(folder, s3=name == "s3-stops")
    wrong: list[str] = []
    start = at = time.monotonic()
    try:
        rounds = MORE_ROUNDS.get(name, ROUNDS)
        hosts.sleep(CELL_SECONDS, sleeping.cells(arms=2, seeds=2, rounds=rounds))
        head = hosts.run(*hosts.sleeps, "ray", "2")
        for worker in (1, 2):
            hosts.worker(worker)
        try:
            hosts.wait("head", "launch: runs on")
        except AssertionError as error:
            raise RuntimeError("no cell began, so that there was no fault") from error
        start = time.monotonic()
        time.sleep(draw.uniform(0, SPAN_SECONDS))
        at = time.monotonic()
        KINDS[name](hosts, draw)
        try:
            status = head.wait(HANGS_SECONDS)
            wrong += [f"the head's status is {status}"] * (status != 0)
        except Exception as error:  # noqa: BLE001 - it is counted
            wrong.append(f"the head: {error}")
    except Exception as error:  # noqa: BLE001 - it is counted
        wrong.append(f"the fault: {type(error).__name__}: {error}")
    taken = time.monotonic() - start
    wrong += _left(hosts)
    if not wrong:
        expected = alone(hosts)
        wrong += ["other locks"] * (locks(hosts.head) != locks(expected))
        wrong += ["other files"] * (outs(hosts.head) != outs(expected))
    said = hosts.said("head").splitlines() if wrong else []
    if wrong:
        shutil.copytree(folder, f"{folder}.kept", symlinks=True)
    shutil.rmtree(folder, ignore_errors=True)
    after = round(at - start, 1)
    return {"after": after, "seconds": round(taken, 1), "wrong": wrong, "said": said[-5:]}


def _left(hosts: Hosts) -> list[str]:
    """What still runs after all was asked to end."""
    with suppress(Exception):
        hosts.end()
    try:
        wait_for(lambda: not hosts.left(), 60)
        return []
    except AssertionError:
        found = [" ".join(one.cmdline())[:120] for one in hosts.left() if not gone(one.pid)]
        for one in hosts.left():
            one.kill()
        return [f"processes left: {found}"]


def family(hosts: Hosts, draw: random.Random) -> tuple[int, list[psutil.Process]]:
    number = draw.choice([1, 2])
    first = psutil.Process(hosts.processes[f"worker-{number}"].pid)
    return number, [first, *first.children(recursive=True)]


def kill(hosts: Hosts, draw: random.Random) -> None:
    """-9 for all of a worker but its reaper; after a while it is started again."""
    number, own = family(hosts, draw)
    own[0].kill()
    hosts.processes[f"worker-{number}"].wait()
    time.sleep(draw.uniform(0, 10))
    if hosts.processes["head"].poll() is None:
        hosts.worker(number)


def freeze(hosts: Hosts, draw: random.Random) -> None:
    _, own = family(hosts, draw)
    for one in own:
        with suppress(psutil.NoSuchProcess):
            one.suspend()
    limit = time.monotonic() + FROZEN_SECONDS
    while time.monotonic() < limit and hosts.processes["head"].poll() is None:
        time.sleep(0.2)
    for one in own:
        with suppress(psutil.NoSuchProcess):
            one.resume()


def _server(hosts: Hosts) -> psutil.Process:
    head = psutil.Process(hosts.processes["head"].pid)
    return next(
        one
        for one in head.children(recursive=True)
        if "pipeline.runner.prefect_server" in one.cmdline()
    )


def prefect_killed(hosts: Hosts, draw: random.Random) -> None:
    _server(hosts).kill()


def prefect_stops(hosts: Hosts, draw: random.Random) -> None:
    server = _server(hosts)
    server.suspend()
    limit = time.monotonic() + AWAY_SECONDS
    while time.monotonic() < limit and hosts.processes["head"].poll() is None:
        time.sleep(0.2)
    with suppress(psutil.NoSuchProcess):
        server.resume()


def remote_stops(hosts: Hosts, draw: random.Random) -> None:
    """The remote is away for a while: its folder, or the line to its server."""
    hosts.remote.leave()
    time.sleep(AWAY_SECONDS)
    hosts.remote.come()


KINDS: dict[str, Callable[[Hosts, random.Random], None]] = {
    "worker-killed": kill,
    "worker-frozen": freeze,
    "worker-thaws": freeze,
    "prefect-killed": prefect_killed,
    "prefect-stops": prefect_stops,
    "folder-stops": remote_stops,
    "s3-stops": remote_stops,
}

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
