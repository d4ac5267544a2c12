"""However `omniopd run` or `repro` ends while stages start or run, nothing of it is left."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.project import Project
from tests.telling import wait_for

pytestmark = pytest.mark.slow

ASKED = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}


def at_work(folder: Path) -> list[psutil.Process]:
    """Living processes in the project's folder."""
    found = []
    for process in psutil.process_iter(["cwd", "status"]):
        if process.info["cwd"] == str(folder) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def starting(folder: Path) -> bool:
    """A stage waits for the fork server, which imports."""
    return any("pipeline.processes.fork_worker" in words(one) for one in at_work(folder))


def busy(folder: Path) -> bool:
    """The fork server has forked a stage."""
    return sum("pipeline.processes.fork_worker" in words(one) for one in at_work(folder)) > 1


CASES = [
    ("run", signal.SIGKILL, "pid", starting),
    ("run", signal.SIGKILL, "group", busy),
    ("run", signal.SIGHUP, "pid", busy),
    ("run", signal.SIGTERM, "group", busy),
    ("run", signal.SIGINT, "group", starting),
    ("repro", signal.SIGKILL, "pid", starting),
    ("repro", signal.SIGKILL, "group", busy),
    ("repro", signal.SIGTERM, "pid", busy),
    ("repro", signal.SIGTERM, "group", starting),
    ("repro", signal.SIGHUP, "pid", busy),
    ("repro", signal.SIGINT, "group", busy),
]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    found = Project(tmp_path / "project")
    yield found
    for process in at_work(found.folder):  # what a failed test has left
        process.kill()


@pytest.mark.parametrize(("command", "number", "to", "when"), CASES)
def test_an_ending_leaves_no_process(
    command: str,
    number: signal.Signals,
    to: str,
    when: Callable[[Path], bool],
    project: Project,
) -> None:
    with (project.folder / "said").open("w") as said:
        process = subprocess.Popen(
            ["omniopd", command],
            cwd=project.folder,
            env=project.environment(),
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    wait_for(lambda: when(project.folder))
    before = (project.folder / "said").read_text()
    start = time.monotonic()
    (os.killpg if to == "group" else os.kill)(process.pid, number)
    status = process.wait(100)
    wait_for(lambda: not at_work(project.folder))
    assert time.monotonic() - start < 100  # about 5 on an idle machine
    text = (project.folder / "said").read_text()
    assert "Traceback" not in text
    if number in ASKED:
        assert status == ASKED[number]
        new = text.removeprefix(before).splitlines()
        assert new[-1].startswith("error: stopped by a signal; ")
        assert len([line for line in new if "error" in line.lower()]) <= 2  # DVC's own and ours
