"""An experiment whose cells srun starts: what it writes, what DVC knows of it, and how it ends."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.processes.launch import slurm
from tests.project import Project, ran
from tests.telling import gone, wait_for

PREFIX = {"gpu": "srun -p gpu --gres=gpu", "cpu": "srun -p cpu"}


def content(project: Project) -> dict[str, Any]:
    """The command, deps and tables of each cell but those of the report, which tells seconds."""
    return {
        name: (entry["cmd"], project.files(name))
        for name, entry in project.locked().items()
        if name.partition("@")[0] not in ("plan", "report")
    }


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, warm: None) -> Project:
    project = Project(tmp_path_factory.mktemp("here") / "project")
    project.edit(experiment__arms=["sft"])
    project.repro()
    return project


def launched(folder: Path, there: dict[str, str]) -> Project:
    project = Project(folder / "project")
    project.edit(experiment__arms=["sft"], runtime__launch=PREFIX)
    project.run("omniopd", "plan", **there)
    return project


def states(project: Project) -> set[str]:
    """Names of the states that Prefect was told, or will be by the next run."""
    files = (project.folder / ".prefect" / "untold").glob("*.jsonl")
    told = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return {one["name"] for one in told if "name" in one}  # others are lines of stages


@pytest.mark.slow
def test_plain_dvc_repro_starts_every_cell_by_the_prefix(here: Project, tmp_path: Path) -> None:
    there = slurm.install(tmp_path / "slurm")
    project = launched(tmp_path, there)
    (tmp_path / "slurm" / "open").touch()
    path = f"{there['PATH'].split(os.pathsep)[0]}{os.pathsep}{project.environment()['PATH']}"
    cells = ran(project.run("dvc", "repro", **{**there, "PATH": path}).stdout)
    assert len(cells) > 8
    assert slurm.jobs(tmp_path / "slurm") == ["0"] * (len(cells) - 1)  # all but stage plan
    assert content(project) == content(here)
    project.edit(runtime__launch={})  # how, never what
    assert project.repro() == ["plan"]


def test_a_job_that_waits_is_shown_and_ends_with_the_run(tmp_path: Path) -> None:
    there = slurm.install(tmp_path / "slurm")
    project = launched(tmp_path, there)
    path = f"{there['PATH'].split(os.pathsep)[0]}{os.pathsep}{project.environment()['PATH']}"
    environment = project.environment(**{**there, "PATH": path})
    said = tmp_path / "said"
    for number, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        with said.open("w") as file:
            run = subprocess.Popen(
                ["omniopd", "run"], cwd=project.folder, env=environment, stdout=file, stderr=file
            )
        wait_for(lambda: slurm.jobs(tmp_path / "slurm")[-1:] == ["PENDING"])
        wait_for(lambda: "| launch: waits for its place: srun -p cpu\n" in said.read_text())
        run.send_signal(number)
        assert run.wait(60) == status
        wait_for(lambda: slurm.jobs(tmp_path / "slurm")[-1] == "CANCELLED")
    assert gone(run.pid)
    assert "Queued" in states(project)
