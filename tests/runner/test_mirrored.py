"""Which of Prefect's databases are moved aside, and that Prefect's process starts no server."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from pipeline.runner import prefect_server
from pipeline.runner.prefect_server import moved_aside
from tests.project import ROOT


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "prefect.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table run (name text)")
        rows = [(f"run {i} " * 50,) for i in range(500)]
        connection.executemany("insert into run values (?)", rows)
        connection.commit()
    return path


def names(database: Path) -> list[str]:
    return sorted(one.name for one in database.parent.iterdir())


def test_a_whole_database_stays_where_it_is(database: Path) -> None:
    before = database.read_bytes()
    assert moved_aside(database) == ""
    assert (names(database), database.read_bytes()) == (["prefect.db"], before)


def test_one_that_does_not_exist_or_is_empty_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "prefect.db"
    assert moved_aside(path) == ""
    path.touch()
    assert moved_aside(path) == ""
    assert names(path) == ["prefect.db"]


@pytest.mark.parametrize("damage", ["garbage", "cut", "zeros"])
def test_a_damaged_one_is_moved_with_what_lies_beside_it(database: Path, damage: str) -> None:
    content = bytearray(database.read_bytes())
    match damage:
        case "garbage":
            content[:] = b"\xff" * len(content)
        case "cut":
            del content[len(content) // 2 :]
        case "zeros":
            content[4096:] = bytes(len(content) - 4096)
    database.write_bytes(content)
    database.with_name("prefect.db-wal").write_bytes(b"old")
    said = moved_aside(database)
    why = "not-a-database" if damage == "garbage" else "corrupt"
    (aside,) = database.parent.glob(f"prefect.db.{why}-*Z")
    assert said.startswith(f"{database} is damaged (")
    assert aside.name in said
    assert aside.read_bytes() == content
    assert not database.exists()
    assert not database.with_name("prefect.db-wal").exists()


def test_a_locked_one_is_not_damaged(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_server, "BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(database)) as holder:
        holder.execute("begin exclusive")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            moved_aside(database)
    assert names(database) == ["prefect.db"]


def test_a_run_told_to_its_end_starts_no_server_and_leaves_the_home_alone(tmp_path: Path) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    state = {"type": "RUNNING", "name": "Running", "message": "", "at": time.time()}
    done = {**state, "type": "COMPLETED", "name": "Completed"}
    cell = {"cell": "a", "label": "a", "gpu": False, "reads": []}
    told = [{"run": "x", "gpu": True, **state}, {**cell, **done}, {"results": "a table", **done}]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.runner.prefect_server"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write("".join(f"{json.dumps(line)}\n" for line in told))
    process.stdin.close()
    watched, started = psutil.Process(process.pid), set()
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            started |= {tuple(child.cmdline()) for child in watched.children(recursive=True)}
        time.sleep(0.02)
    assert process.stdout is not None
    assert process.stdout.read().splitlines() == ["limit 1", "done "]
    servers = [words for words in started if "uvicorn" in words]  # others ask what machine this is
    assert servers == []
    assert list(home.iterdir()) == []
    with closing(sqlite3.connect(project / ".prefect" / "prefect.db")) as database:
        assert database.execute("select data from artifact").fetchall() == [('"a table"',)]
