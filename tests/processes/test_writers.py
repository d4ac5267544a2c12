"""Two processes never write one cell."""

import atexit
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import stages
from pipeline.core.errors import STATUS
from pipeline.processes import reaper
from pipeline.training import process_group
from tests.project import ROOT
from tests.telling import Stages, gone, wait_for

HOLD = """
import sys, time
from pathlib import Path
import stages
stages.hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stages, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(atexit, "register", lambda *_: None)
    return tmp_path / "data" / "train" / "ca"


def holder(cell: Path, **env: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(cell)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_writer_of_a_cell_is_told_who_the_first_is(
    cell: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with holder(cell) as first:
        with pytest.raises(SystemExit) as refused:
            stages.hold(cell)
        assert refused.value.code == STATUS
        said = capsys.readouterr().err
        assert said.startswith(f"error: {cell} is being written by process {first.pid} on ")
        assert "Wait until that one ends, or end it" in said
        stages.hold(cell.with_name("cb"))  # another cell is free
        first.communicate()
    assert not cell.with_name(".ca.lock").exists()


def test_the_lock_goes_with_a_killed_writer(cell: Path) -> None:
    with holder(cell) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert cell.with_name(".ca.lock").is_file()  # which holds nothing
    stages.hold(cell)
    assert f"process {os.getpid()} on" in cell.with_name(".ca.lock").read_text()


def test_a_process_that_writes_with_the_holder_goes_on(cell: Path) -> None:
    """As the ranks of a train stage do, which are its own command line."""
    stages.hold(cell)
    with holder(cell, **{stages.RANK: "1 2 3 meeting"}) as rank:
        rank.communicate()
    assert cell.with_name(".ca.lock").is_file()


def test_a_lock_that_was_removed_while_it_was_awaited_is_not_held(
    cell: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cell.with_name(".ca.lock")
    path.parent.mkdir(parents=True)
    real = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        path.unlink()  # by the holder that ends just now
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert stages._taken(path) is None
    monkeypatch.setattr(fcntl, "flock", real)
    assert stages._taken(path) is not None


def test_stages_know_the_marks_of_commands_and_ranks() -> None:
    assert (stages.COMMAND, stages.RANK) == (reaper.ENV, process_group.ENV)


def test_a_stage_holds_its_cell_from_its_first_import_to_its_end(tmp_path: Path) -> None:
    found = Stages(tmp_path / "project")
    said, out = found.folder / "pids", found.folder / "data" / "wait" / "ca"
    first = found.start({}, "wait", str(said), "--out", str(out))
    wait_for(said.exists)
    lock = out.with_name(".ca.lock")
    assert lock.read_text().startswith(f"process {first.pid} on ")
    assert stages._taken(lock) is None
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 5
    assert gone(int(said.read_text().split()[1]))
    assert not lock.exists()
