"""Which of Prefect's databases are moved aside, and that Prefect's process starts no server."""

import json
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipeline.processes import cell_log
from pipeline.runner import mirror, prefect_server
from pipeline.runner.prefect_server import moved_aside
from tests.project import ROOT
from tests.telling import wait_for

AUTH = "user:of the team"
ARTIFACTS = "select type, data, description from artifact where type = 'progress' order by key"


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


@dataclass
class Told:
    """A run that Prefect's process was told to its end, and what was seen meanwhile."""

    folder: Path
    midst: list[Any]  # artifacts while its cell ran
    servers: list[tuple[str, ...]]
    said: list[str]

    def rows(self, query: str) -> list[Any]:
        """Nothing before there is such a table."""
        path = self.folder / "project" / ".prefect" / "prefect.db"
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path)) as database:
            return database.execute(query).fetchall()
        return []


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    found = Told(tmp_path_factory.mktemp("told"), [], [], [])
    home, project = found.folder / "home", found.folder / "project"
    home.mkdir()
    lock = project / "data" / "train" / ".a.lock"
    lock.parent.mkdir(parents=True)
    far = {"what": "train", "done": 3, "total": 12, "per_second": 1.5}
    lock.write_text(f"{cell_log.who()}\n{json.dumps(far)}")
    state = {"type": "RUNNING", "name": "Running", "message": "", "at": time.time()}
    done = {**state, "type": "COMPLETED", "name": "Completed"}
    cell = {"cell": "train@a", "label": "train of a", "gpu": False, "reads": []}
    first: list[dict[str, Any]] = [{"run": "x", "title": "mine", "cells": 4, "gpu": True, **state}]
    first += [{**cell, **state}]
    first += [{"cell": "train@a", "said": said, "at": 1.0} for said in ("a word", "error: bad")]
    often = "from pipeline.runner import prefect_server as server; server.LOOK_SECONDS = 0.2"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{often}; server.main()"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("".join(f"{json.dumps(line)}\n" for line in first))
    process.stdin.flush()
    watched, started = psutil.Process(process.pid), set()

    def look() -> None:
        with suppress(psutil.NoSuchProcess):
            started.update(tuple(child.cmdline()) for child in watched.children(recursive=True))
        time.sleep(0.02)

    while len(found.midst) < 2:
        assert process.poll() is None
        found.midst = found.rows(ARTIFACTS)
        look()
    last = [{**cell, **done}, {"results": "a table", **done}]
    process.stdin.write("".join(f"{json.dumps(line)}\n" for line in last))
    process.stdin.close()
    while process.poll() is None:
        look()
    found.said = process.stdout.read().splitlines()
    found.servers = [words for words in started if "uvicorn" in words]
    return found


def test_a_run_told_to_its_end_starts_no_server_and_leaves_the_home_alone(told: Told) -> None:
    assert told.said == ["limit 1", "done "]
    assert told.servers == []  # others ask what machine this is
    assert list((told.folder / "home").iterdir()) == []
    assert told.rows("select data from artifact where key = 'results'") == [('"a table"',)]
    assert told.rows("select name, state_name from flow_run") == [("mine", "Completed")]


def test_how_far_run_and_stage_are_is_there_while_they_run_and_is_brought_to_its_end(
    told: Told,
) -> None:
    words = "train: 3 of 12, 1.5 a second"
    assert told.midst == [("progress", 25, words), ("progress", 0, "0 of 4 cells are done")]
    assert told.rows(ARTIFACTS) == [
        ("progress", 100, "done"),
        ("progress", 25, "1 of 4 cells are done"),
    ]


def test_what_a_stage_says_is_a_log_and_a_refusal_an_error_in_it(told: Told) -> None:
    found = told.rows("select message, level from log order by message")
    assert found == [("a word", logging.INFO), ("error: bad", logging.ERROR)]


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.HTTPError:
        return False


@pytest.fixture
def team(tmp_path: Path) -> Iterator[str]:
    """A server of Prefect's own; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port],
        env={
            **os.environ,
            "PREFECT_HOME": str(tmp_path / "team"),
            "PREFECT_SERVER_API_AUTH_STRING": AUTH,
            "DO_NOT_TRACK": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/api"
    wait_for(lambda: healthy(url))
    try:
        yield url
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
@pytest.mark.services
def test_a_teams_server_has_the_run_and_keeps_those_of_others(team: str, tmp_path: Path) -> None:
    state = {"type": "RUNNING", "name": "Running", "message": "", "at": time.time()}
    done = {**state, "type": "COMPLETED", "name": "Completed"}
    begun = {"run": "x", "title": "mine", "cells": 1, "gpu": False, **state}
    cell = {"cell": "a", "label": "cell a", "gpu": False, "reads": []}
    said = {"cell": "a", "said": "a word", "at": 1.0}
    whole = [begun, {**cell, **state}, said, {**cell, **done}, {"results": "a table", **done}]
    told = {"theirs": [{**begun, "run": "y", "title": "theirs"}], "mine": whole}
    for name, lines in told.items():
        (tmp_path / name).mkdir()
        output = subprocess.run(
            [sys.executable, "-m", "pipeline.runner.prefect_server"],
            cwd=tmp_path / name,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                prefect_server.URL: team,
                prefect_server.AUTH: AUTH,
            },
            input="".join(f"{json.dumps(line)}\n" for line in lines),
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        assert output == "done \n"
        assert not (tmp_path / name / mirror.DATABASE).exists()
    who = tuple(AUTH.split(":"))
    runs = httpx.post(f"{team}/flow_runs/filter", json={}, auth=who).json()
    assert {one["name"]: one["state_name"] for one in runs} == {
        "mine": "Completed",  # theirs runs on: it is not of this folder
        "theirs": "Running",
    }
    (mine,) = (one for one in runs if one["name"] == "mine")
    logs = httpx.post(f"{team}/logs/filter", json={}, auth=who).json()
    assert [(one["message"], one["flow_run_id"]) for one in logs] == [("a word", mine["id"])]
