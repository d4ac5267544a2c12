"""A team's line-up at once: three clones with caches of their own, a Ray head with two nodes,
Prefect's server, an S3 remote and Postgres."""

import json
import os
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipeline.engines.vllm import vllm_process
from tests import team
from tests.project import PYTHONPATH, Project
from tests.runner.workers.cluster import listening
from tests.runner.workers.team import LOOPBACK, Team, differ, made
from tests.small_engines import vllm_packages
from tests.telling import wait_for

VLLM, FORKED = vllm_process.WORKER, "pipeline.processes.fork_worker"
pytest.importorskip("ray", reason="extra ray is not installed")
pytest.importorskip("dvc_s3", reason="extra s3 is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")
pytestmark = [pytest.mark.workers, pytest.mark.team, pytest.mark.services, pytest.mark.slow]


def started(found: Team, head: subprocess.Popen[str]) -> tuple[set[int], set[int]]:
    """Processes that were seen until the head's end: engines of vLLM, and forked stages."""
    engines, forked, limit = set[int](), set[int](), time.monotonic() + 1200
    while head.poll() is None and time.monotonic() < limit:
        for one in found.left():
            with suppress(psutil.Error):
                if VLLM in one.cmdline():
                    engines.add(one.pid)
                elif FORKED in one.cmdline() and FORKED in psutil.Process(one.ppid()).cmdline():
                    forked.add(one.pid)
        time.sleep(0.2)
    return engines, forked


def test_each_worker_starts_an_engine_of_vllm_once_for_all_rounds(tmp_path: Path) -> None:
    small = {"init": {"kind": "llama", "hidden": 64, "layers": 2, "heads": 2, "mlp": 64}}
    sloppy = {**small, "steps": 200, "batch_size": 16, "lr": 1.0e-2}
    found = Team(
        tmp_path,
        path=f"{PYTHONPATH}{os.pathsep}{vllm_packages()}",
        experiment__arms=["omniopd", "grpo"],
        experiment__rounds=2,
        pretrain__models__sloppy=sloppy,
        rollout__engine="vllm",
        evaluate__engine="vllm",
    )
    try:
        head = found.ray()
        for number in (1, 2):
            found.worker(number)
        engines, forked = started(found, head)
        assert head.returncode == 0, found.said("head")
        assert 1 <= len(engines) <= 2  # for three rollouts and four evaluations
        assert forked  # stages come of a server that has imported torch
        made = (found.head / "data").glob("*/*/run.json")
        counts = [one for path in made if "engine_starts" in (one := json.loads(path.read_text()))]
        assert len(counts) == 3  # evaluations do not count theirs
        assert sum(one["engine_starts"] for one in counts) <= 2
    finally:
        found.end()
    wait_for(lambda: not found.left())


def test_a_teams_experiment_is_that_of_plain_dvc_repro(tmp_path: Path) -> None:
    found = Team(tmp_path, experiment__arms=["omniopd", "sft"])
    try:
        head = found.ray()
        for number in (1, 2):
            found.worker(number)
        found.wait("head", "with room for 2 cells at a time")
        assert listening(found.left()) <= LOOPBACK
        assert head.wait(1200) == 0, found.said("head")
        ours = made(Project.at(found.head))
        assert differ(ours, found.plainly()) == []
        assert "Running stage" not in found.command(found.head, "dvc", "repro")
        stats = json.loads(found.command(found.head, "omniopd", "judgments", "stats", "--json"))
        assert stats["bought"] == stats["answers"] > 0  # in Postgres, by workers
        request = urllib.request.Request(
            f"{found.prefect.url}/flow_runs/filter", b"{}", {"Content-Type": "application/json"}
        )
        runs = json.loads(urllib.request.urlopen(request).read())
        assert [one["state_name"] for one in runs] == ["Completed"]
        # a newcomer has git's locks and the remote
        team.commit(found.head)
        newcomer = team.clone(found.head, tmp_path / "newcomer")
        assert "Running stage" not in found.command(newcomer, "dvc", "repro", "--pull")
        assert differ(ours, made(Project.at(newcomer))) == []
    finally:
        found.end()
    wait_for(lambda: not found.left())
