"""A team's line-up at once: three clones with caches of their own, a Ray head with two nodes,
Prefect's server, an S3 remote and Postgres."""

import json
import urllib.request
from pathlib import Path

import pytest

from tests import team
from tests.project import Project
from tests.runner.workers.cluster import listening
from tests.runner.workers.team import LOOPBACK, Team, differ, made
from tests.telling import wait_for

pytest.importorskip("ray", reason="extra ray is not installed")
pytest.importorskip("dvc_s3", reason="extra s3 is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")
pytestmark = [pytest.mark.workers, pytest.mark.team, pytest.mark.services, pytest.mark.slow]


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
