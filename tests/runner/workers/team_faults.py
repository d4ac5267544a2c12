"""Faults at random moments of a team's runs, by seed: what each leaves is that of plain `dvc repro`
in a folder with a store of its own, and no process.

    python -m tests.runner.workers.team_faults [--kinds NAME ...] [--faults N] [--first N]

One team lives through all of them: a Ray cluster that stays, two workers, Prefect's server, an S3
remote, Postgres. The cells of a run buy answers from the store for some seconds each
(tests/runner/workers/asking.py). The moment of a fault is drawn over the seconds that a run without
one took from its first cell on. A line of JSON for each fault, and one at the end.
"""

import argparse
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from pipeline.judgments.store import Store
from pipeline.runner.workers import cluster
from tests.runner.workers import asking, faults, sleeping
from tests.runner.workers.cluster import MADE, Hosts, locks, outs
from tests.runner.workers.services import Postgres, Prefect
from tests.telling import wait_for

SEED = 20261131
SECONDS = 4.0  # of a cell
BEGAN = "launch: runs on"
ENDS_SECONDS = 900.0
ASKS = f"{sys.executable} -m tests.runner.workers.asking {{cell}}"


class Team(Hosts):
    """The head's folder, those of workers, and `alone`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, s3=True)
        self.reads = sleeping.cells(arms=2, seeds=2, rounds=2)
        self.sleep(SECONDS, self.reads, work=ASKS)
        self.alone = folder / "alone"
        shutil.copytree(self.head, self.alone, ignore=shutil.ignore_patterns(*MADE))
        self.prefect, self.postgres = Prefect(), Postgres()
        self.environment |= {
            "JUDGMENTS_URL": self.postgres.url,
            "OMNIOPD_PREFECT_URL": self.prefect.url,
            **cluster.SETTINGS,
        }
        (folder / "cluster").mkdir()
        host, _, port = self.address.partition(":")
        start = [sys.executable, "-P", "-m", "pipeline.runner.workers.ray_start", "start"]
        start += ["--block", "--head", "--node-ip-address", host, "--port", port]
        start += ["--include-dashboard", "false", "--num-cpus", "1"]
        start += ["--temp-dir", tempfile.mkdtemp(prefix="ray-", dir="/tmp")]
        for _ in range(cluster.TRIES):
            process = self.start("cluster", *start)
            wait_for(lambda: self._started() or process.poll() is not None, 400)  # noqa: B023
            if self._started():
                break

    def _started(self) -> bool:
        return "Ray runtime started" in self.said("cluster")

    def plainly(self) -> "subprocess.Popen[bytes]":
        """The same cells by plain `dvc repro`, with a store of their own."""
        store = {"JUDGMENTS_URL": f"sqlite:///{self.folder / 'alone.sqlite'}"}
        words = ["dvc", "repro", "-q"]
        return subprocess.Popen(words, cwd=self.alone, env=self.environment | store)

    def kept(self) -> tuple[int, int]:
        """Answers in the team's store, and how many were bought."""
        with Store(self.postgres.url, "team") as store:
            found = store.stats()
        return found.answers, found.bought

    def shown(self) -> list[str]:
        """States of the runs in Prefect."""
        words = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"{self.prefect.url}/flow_runs/filter", b"{}", words)
        return [one["state_name"] for one in json.loads(urllib.request.urlopen(asked).read())]

    def end(self) -> None:
        for name in ("head", "worker-1", "worker-2", "cluster"):
            if process := self.processes.get(name):
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                    process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(60)
        super().end()
        self.prefect.end()
        self.postgres.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", choices=sorted(KINDS), default=[*KINDS])
    parser.add_argument("--faults", type=int, default=10, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="omniopd-team-faults-"))
    team = Team(folder)
    bad = count = 0
    try:
        span, wrong = run(team, count)
        _say(kind="none", seconds=span, wrong=wrong)
        for number in range(args.first, args.first + args.faults):
            for kind in args.kinds:
                count += 1
                draw = random.Random(f"{SEED} {kind} {number}")
                after = draw.uniform(0, span)
                fault = functools.partial(KINDS[kind], team, draw)
                took, wrong = run(team, count, kind, fault, after)
                bad += bool(wrong)
                _say(kind=kind, number=number, after=after, seconds=took, wrong=wrong)
        _, wrong = run(team, count + 1)  # which tells Prefect what it was not told
        _say(kind="none", wrong=wrong, shown=sorted(set(team.shown())))
    finally:
        with suppress(Exception):
            team.end()
        left = _left(team)
        _say(kind="end", wrong=left)
    if not bad and not left:
        shutil.rmtree(folder, ignore_errors=True)
    said = f"{bad} faults changed something, {len(left)} processes are left"
    sys.exit(said if bad or left else 0)


def run(
    team: Team,
    count: int,
    kind: str = "none",
    fault: Callable[[], None] = lambda: None,
    after: float = 0.0,
) -> tuple[float, list[str]]:
    """Run `count` of the team's, with a fault so many seconds after its first cell began: seconds
    from there to its end, what is wrong."""
    for one in (team.head, team.alone):
        (one / "params.yaml").write_text(f"# run {count}\nruntime: {{device: cpu}}\n")
    (team.folder / "head.said").unlink(missing_ok=True)
    before = team.kept()
    plain = team.plainly()
    for number in (1, 2):
        process = team.processes.get(f"worker-{number}")
        if process is None or process.poll() is not None:
            team.worker(number)
    head = team.run(*team.sleeps, f"ray:{team.address}", "2")
    wrong = []
    start = time.monotonic()
    try:
        team.wait("head", BEGAN)
        start = time.monotonic()
        time.sleep(after)
        fault()
        status = head.wait(ENDS_SECONDS)
        wrong += [f"the head's status is {status}"] * (status != 0)
    except Exception as error:  # noqa: BLE001 - it is counted
        wrong.append(f"{type(error).__name__}: {error}")
        head.terminate()
        head.wait(120)
    took = time.monotonic() - start
    plain.wait()
    wrong += [f"still runs: {one}" for one in _asking(team)]
    if not wrong:
        wrong += ["other locks"] * (locks(team.head) != locks(team.alone))
        wrong += ["other files"] * (outs(team.head) != outs(team.alone))
    answers, bought = (now - then for now, then in zip(team.kept(), before, strict=True))
    wanted = asking.ANSWERS * len(team.reads)
    # one that stood still between a look and its answer buys what another has bought since
    if answers != wanted or (bought != wanted and kind != "worker-frozen"):
        wrong.append(f"{answers} answers, {bought} bought, wanted {wanted}")
    if wrong:
        wrong += team.said("head").splitlines()[-8:]
    return took, wrong


def _asking(team: Team) -> list[str]:
    """Cells that run when nobody should, some time after the run's end."""

    def found() -> list[str]:
        words = []
        for one in team.left():
            with suppress(psutil.Error):
                words.append(" ".join(one.cmdline()))
        return [one[:120] for one in words if "workers.asking" in one]

    with suppress(AssertionError):
        wait_for(lambda: not found(), 60)
    return found()


def _left(team: Team) -> list[str]:
    """Processes that are left after all was asked to end; they are killed."""
    with suppress(AssertionError):
        wait_for(lambda: not team.left(), 60)
    found = []
    for one in team.left():
        with suppress(psutil.Error):
            found.append(" ".join(one.cmdline())[:120])
            one.kill()
    return found


def _say(**found: Any) -> None:
    rounded = {k: round(v, 1) if isinstance(v, float) else v for k, v in found.items()}
    sys.stdout.write(json.dumps(rounded) + "\n")
    sys.stdout.flush()


def _away(service: Any) -> None:
    service.leave()
    time.sleep(faults.AWAY_SECONDS)
    service.come()


def freeze(team: Team, draw: random.Random) -> None:
    """For all of the two minutes, whether the run ends before or not."""
    _, own = faults.family(team, draw)
    for one in own:
        with suppress(psutil.NoSuchProcess):
            one.suspend()
    time.sleep(faults.FROZEN_SECONDS)
    for one in own:
        with suppress(psutil.NoSuchProcess):
            one.resume()


KINDS: dict[str, Callable[[Team, random.Random], None]] = {
    "postgres-stops": lambda team, _: _away(team.postgres),
    "prefect-stops": lambda team, _: _away(team.prefect),
    "s3-stops": lambda team, _: _away(team.remote),
    "worker-killed": faults.kill,
    "worker-frozen": freeze,
}

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
