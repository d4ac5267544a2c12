"""Cells on workers of a Ray cluster on this host, each with a folder and a cache of its own."""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.runner.workers import cluster
from tests.project import Project
from tests.runner.workers import sleeping
from tests.runner.workers.cluster import MADE, QUICK, Hosts, alone, listening, locks
from tests.telling import gone, wait_for

pytest.importorskip("ray", reason="extra ray is not installed")
pytestmark = [pytest.mark.workers, pytest.mark.slow]

READS = sleeping.cells(arms=2, seeds=2, rounds=2)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    found = Hosts(tmp_path)
    yield found
    found.end()
    for process in found.left():
        process.kill()


def runs(hosts: Hosts) -> list[str]:
    """Each cell as often as a stage of it began."""
    found = [path.read_text().split() for path in hosts.folder.glob("worker-*/runs")]
    return sorted(name for some in found for name in some)


def nothing_to_do(folder: Path, environment: dict[str, str]) -> bool:
    done = subprocess.run(
        ["dvc", "repro"], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return "Running stage" not in done.stdout


def test_two_workers_make_each_cell_once_and_the_head_writes_the_locks(hosts: Hosts) -> None:
    hosts.sleep(0.2, READS)
    expected = alone(hosts)
    head = hosts.run()
    for number in (1, 2):
        hosts.worker(number)
    hosts.wait("head", "with room for 2 cells at a time")
    assert listening(hosts.left()) <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert head.wait(600) == 0, hosts.said("head")
    assert runs(hosts) == sorted(name.replace("@", "-") for name in READS)
    assert all((hosts.folder / f"worker-{n}" / "runs").exists() for n in (1, 2))
    assert locks(hosts.head) == locks(expected)
    assert nothing_to_do(hosts.head, hosts.environment)
    # the run-cache went to the remote, too: a clone restores all of it
    clone = hosts.folder / "clone"
    shutil.copytree(hosts.head, clone, ignore=shutil.ignore_patterns(*MADE))
    done = subprocess.run(
        ["dvc", "repro", "--pull"], cwd=clone, env=hosts.environment, capture_output=True, text=True
    )
    assert "Running stage" not in done.stdout
    assert locks(clone) == locks(expected)
    hosts.end()
    wait_for(lambda: not hosts.left())


def test_a_worker_that_is_killed_costs_its_cells_and_one_that_joins_gets_some(hosts: Hosts) -> None:
    hosts.sleep(3, READS)
    head = hosts.run()
    victim = hosts.worker(1)
    hosts.wait("head", "worker-1\n", "cell 1 of 11")  # it is at work
    wait_for(lambda: len(runs(hosts)) > 1)
    victim.kill()
    hosts.worker(2)
    assert head.wait(900) == 0, hosts.said("head")
    assert "try 2" in hosts.said("head")
    assert {*runs(hosts)} == {name.replace("@", "-") for name in READS}
    assert locks(hosts.head) == locks(alone(hosts))


def test_a_worker_that_stands_still_is_replaced_and_brings_nothing(hosts: Hosts) -> None:
    hosts.sleep(3, READS)
    hosts.environment |= QUICK
    head = hosts.run()
    for number in (1, 2):
        hosts.worker(number)
    hosts.wait("head", "with room for 2 cells at a time", "worker-1\n", "cell 1 of 11")
    wait_for(lambda: "sleep" in children(hosts.processes["worker-1"].pid), 300)
    first = hosts.processes["worker-1"]
    worker = psutil.Process(first.pid)
    frozen = [worker, *worker.children(recursive=True)]
    for process in frozen:
        process.suspend()
    assert head.wait(900) == 0, hosts.said("head")
    assert "its node is gone: another gets the cell" in hosts.said("head")
    for process in frozen:
        if process.is_running():
            process.resume()
    hosts.wait("worker-1", "left ")
    assert locks(hosts.head) == locks(alone(hosts))
    hosts.end()
    wait_for(lambda: not hosts.left())


def children(pid: int) -> list[str]:
    return [one.name() for one in psutil.Process(pid).children(recursive=True)]


def within(process: psutil.Process, pid: int) -> bool:
    return pid in [process.pid, *(one.pid for one in process.parents())]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_run_ends_its_cells(hosts: Hosts, number: signal.Signals) -> None:
    hosts.sleep(60, READS)
    head = hosts.run()
    hosts.worker(1)
    wait_for(lambda: bool(runs(hosts)), 400)
    head.send_signal(number)
    assert head.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
    worker = hosts.processes["worker-1"]
    wait_for(lambda: hosts.said("worker-1").endswith(f"waits for a head at {hosts.address}\n"))
    wait_for(lambda: [one.pid for one in hosts.left() if "sleep" in one.name()] == [])
    assert worker.poll() is None
    wait_for(lambda: all(within(one, worker.pid) or "reaper" in words(one) for one in hosts.left()))
    assert gone(head.pid)


def words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return "reaper"


def content(project: Project) -> dict[str, Any]:
    """Command, code and tables of each cell but those of the report, which tells seconds."""
    return {
        name: (entry["cmd"], project.files(name))
        for name, entry in project.locked().items()
        if name.partition("@")[0] not in ("plan", "report")
    }


def test_an_experiment_on_workers_is_that_of_plain_dvc_repro(tmp_path: Path, warm: None) -> None:
    hosts = Hosts(tmp_path)
    here = Project(tmp_path / "here")
    here.edit(experiment__arms=["sft"])
    project = here.copy(hosts.head)
    here.repro()
    hosts.environment = project.environment(
        **{
            name: hosts.environment[name]
            for name in (*hosts.environment,)
            if name.startswith("RAY_") or name == "PYTHONUNBUFFERED"
        }
    )
    hosts.environment["JUDGMENTS_URL"] = f"sqlite:///{tmp_path / 'judgments.sqlite'}"
    remote = ["dvc", "remote", "add", "-d", "all", str(tmp_path / "remote")]
    subprocess.run(remote, cwd=hosts.head, env=hosts.environment, check=True)
    try:
        other = Project.at(shutil.copytree(hosts.head, tmp_path / "worker-3"))
        path = other.folder / "pipeline" / "method" / "objectives" / "sft.py"
        before = path.read_text()
        path.write_text(before.replace("found, cut = [], 0", "found, cut = [], 1"))
        assert path.read_text() != before
        head = hosts.run("omniopd", "run", "--on", "ray", "--listen", hosts.address)
        refused = hosts.worker(3)
        for number in (1, 2):
            hosts.worker(number)
        assert refused.wait(400) == 2
        refusal = (
            r"code of 1 of \d+ variants is other than the head's: train-sft is of other code: "
        )
        assert re.search(f"{refusal}examples", hosts.said("worker-3")), hosts.said("worker-3")
        assert head.wait(1200) == 0, hosts.said("head")
        assert content(project) == content(here)
        assert nothing_to_do(hosts.head, hosts.environment)
    finally:
        hosts.end()
    wait_for(lambda: not hosts.left())


def test_small_cells_share_a_card_and_others_have_one_to_themselves(hosts: Hosts) -> None:
    small = {f"evaluate@{one}": [] for one in "ab"}
    large = {f"train@{one}": list(small) for one in "ab"}
    hosts.sleep(3, small | large, "{device: cuda, gpu_share: {evaluate: 0.5}}")
    head = hosts.run()
    hosts.worker(1, "--gpus", "1", "--parallel", "2")
    assert head.wait(600) == 0, hosts.said("head")
    said = [line.split() for line in (hosts.folder / "worker-1" / "cards").read_text().splitlines()]
    assert {card for card, _ in said} == {"0"}
    at = [float(time) for _, time in said]
    assert at[1] < at[0] + 3  # a and b of evaluate began before one of them ended
    assert at[5] >= at[4] + 3  # a of train ended before b began


def test_a_cluster_that_exists_is_used_and_stays(hosts: Hosts) -> None:
    hosts.sleep(0.2, READS)
    hosts.environment |= cluster.SETTINGS
    (hosts.folder / "cluster").mkdir()
    host, _, port = hosts.address.partition(":")
    start = [sys.executable, "-P", "-m", "pipeline.runner.workers.ray_start", "start", "--block"]
    start += ["--head", "--node-ip-address", host, "--port", port, "--include-dashboard", "false"]
    start += ["--temp-dir", tempfile.mkdtemp(prefix="ray-", dir="/tmp"), "--num-cpus", "1"]
    there = hosts.start("cluster", *start)
    hosts.wait("cluster", "Ray runtime started")
    head = hosts.run(*hosts.sleeps, f"ray:{hosts.address}")
    hosts.worker(1)
    assert head.wait(600) == 0, hosts.said("head")
    assert locks(hosts.head) == locks(alone(hosts))
    assert there.poll() is None
    hosts.end()
    wait_for(lambda: not hosts.left())


def test_who_has_another_token_is_sent_away(hosts: Hosts) -> None:
    hosts.sleep(1, READS)
    hosts.run()
    hosts.wait("head", "workers join by")
    (hosts.folder / "other").write_text("b" * 64)
    hosts.environment["RAY_AUTH_TOKEN_PATH"] = str(hosts.folder / "other")
    assert hosts.worker(1).wait(120) == 2
    assert "does not take this machine's token" in hosts.said("worker-1")
    hosts.environment["RAY_AUTH_TOKEN_PATH"] = str(hosts.folder / "none")
    assert hosts.worker(1).wait(120) == 2
    assert "wanted the head's token" in hosts.said("worker-1")
