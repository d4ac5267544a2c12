"""Whatever a command started ends with it, however the command ends."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from pipeline.processes import reaper
from tests.project import ROOT
from tests.telling import gone, wait_for

# a child, one that left its session and its parent, and one that is stopped
FAMILY = """
import os, signal, subprocess, sys, time
from pipeline.processes import reaper
sleep = ["sleep", "300"]
with reaper.watched():
    child = subprocess.Popen(sleep)
    double = "import subprocess; print(subprocess.Popen(['sleep', '300']).pid, flush=True)"
    command = [sys.executable, "-c", double]
    lost = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    orphan = int(lost.stdout.readline())
    lost.wait()
    stopped = subprocess.Popen(sleep, process_group=0)
    stopped.send_signal(signal.SIGSTOP)
    print(child.pid, orphan, stopped.pid, flush=True)
    if sys.argv[1:] == ["stay"]:
        time.sleep(300)
"""


@pytest.fixture
def bystander() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "300"], env={**os.environ, reaper.ENV: "another"})
    yield process.pid
    process.kill()
    process.wait()


def start(*arguments: str) -> "tuple[subprocess.Popen[str], list[int]]":
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FAMILY), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


@pytest.mark.parametrize("group", [False, True])
def test_a_killed_command_leaves_nothing(group: bool, bystander: int) -> None:
    process, family = start("stay")
    assert len(family) == 3
    assert not any(gone(pid) for pid in family)
    (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: all(gone(pid) for pid in family))
    assert not gone(bystander)


def test_a_command_that_ends_well_leaves_nothing(bystander: int) -> None:
    process, family = start()
    assert process.wait(60) == 0
    assert all(gone(pid) for pid in family)
    assert not gone(bystander)


def test_what_is_started_after_the_block_has_no_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(reaper.ENV, "outer")
    with reaper.watched():
        inner = os.environ[reaper.ENV]
        assert inner != "outer"
        assert reaper.marked(inner) == []
    assert os.environ[reaper.ENV] == "outer"
