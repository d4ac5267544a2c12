"""Stages forked from the server against the same stages started by themselves."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.processes import fork_server
from tests.telling import Stages, gone, servers, wait_for


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    return Stages(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with fork_server.serving() as found:
        yield found


def test_a_table_has_the_same_bytes(stages: Stages, server: dict[str, str]) -> None:
    assert stages.look(server)["forked"]  # and so it is ready
    found = {}
    for name, given in {"alone": {}, "forked": server}.items():
        out = stages.folder / name
        command = ("prepare", "--cell", "ca", "--out", str(out))
        status, output, errors = stages.run(given, *command)
        assert (status, output) == (0, "")
        assert errors.startswith("prepare ca: 0 rows in, 30 rows out")
        found[name] = (out / "prompts.parquet").read_bytes()
    assert found["alone"] == found["forked"]


def test_threads_and_sums_are_the_same(stages: Stages, server: dict[str, str]) -> None:
    for threads in (1, 2):
        (stages.folder / "params.yaml").write_text(f"runtime: {{threads: {threads}}}\n")
        alone, forked = (stages.run(given, "compute") for given in ({}, server))
        assert alone == forked
        assert alone[:2] == (0, alone[1])
        assert alone[1].startswith(f"{threads} ")


def test_a_stage_sees_what_its_client_was_given(stages: Stages, server: dict[str, str]) -> None:
    arguments = ("--cell", "c a", "é\udcff")
    alone = stages.look({}, *arguments, JUDGMENTS_URL="sqlite:///x")
    forked = stages.look(server, *arguments, JUDGMENTS_URL="sqlite:///x")
    assert (alone.pop("forked"), forked.pop("forked")) == (False, True)
    added = set(forked["environment"]) - set(alone["environment"])
    assert all(name.startswith("TORCH") for name in added)  # importing torch sets it
    for name in added:
        del forked["environment"][name]
    assert forked == alone
    assert forked["stdin"] == "asked"
    assert forked["environment"]["JUDGMENTS_URL"] == "sqlite:///x"


def test_an_edit_of_the_code_is_seen_by_the_next_stage(
    stages: Stages, server: dict[str, str]
) -> None:
    for value in (10, 11, 12):
        stages.edit(value)
        found = stages.look(server)
        assert (found["forked"], found["edited"]) == (True, value)
        assert found["file"] == str(stages.folder / "pipeline" / "edited.py")


def test_what_imports_would_read_makes_a_stage_run_by_itself(
    stages: Stages, server: dict[str, str]
) -> None:
    assert not stages.look(server, OMP_NUM_THREADS="3")["forked"]
    assert not stages.look(server, PYTHONPATH=str(stages.folder))["forked"]
    assert stages.look(server, OTHER="3")["forked"]


@pytest.mark.parametrize(
    "how", ["0", "7", "256", "none", "text", "raise", "interrupt", "-9", "-15", "-2", "-3", "-11"]
)
def test_a_stage_ends_as_it_would_alone(how: str, stages: Stages, server: dict[str, str]) -> None:
    alone, forked = (stages.run(given, "end", how) for given in ({}, server))
    assert forked[:2] == alone[:2]
    assert forked[2].splitlines()[-2:] == alone[2].splitlines()[-2:]


@pytest.mark.parametrize("arguments", [("--cell", "cb", "--out", "x"), ("--out", "x")])
def test_bad_input_is_told_as_it_would_be_alone(
    arguments: tuple[str, ...], stages: Stages, server: dict[str, str]
) -> None:
    alone, forked = (stages.run(given, "prepare", *arguments) for given in ({}, server))
    assert alone == forked
    assert alone[0] in (1, 2)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 5)]
)
def test_a_signal_to_the_client_is_the_stages(
    number: signal.Signals, status: int, stages: Stages, server: dict[str, str]
) -> None:
    client, pids = stages.waiting(server)
    client.send_signal(number)
    assert client.wait(60) == status
    wait_for(lambda: gone(pids[0]))
    if not gone(pids[1]):
        psutil.Process(pids[1]).kill()


def test_a_killed_client_takes_its_stage_and_all_that_it_started_along(
    stages: Stages, server: dict[str, str]
) -> None:
    client, pids = stages.waiting(server)
    assert stages.look(server)["forked"]  # another one meanwhile
    assert not any(gone(pid) for pid in pids)
    client.kill()
    client.wait(60)
    wait_for(lambda: all(gone(pid) for pid in pids))
    assert stages.look(server)["forked"]


def test_a_killed_server_takes_its_stages_along_and_later_ones_run_by_themselves(
    stages: Stages,
) -> None:
    before = {one.pid for one in servers()}
    with fork_server.serving() as server:
        client, pids = stages.waiting(server)
        (process,) = [one for one in servers() if one.pid not in before]
        process.kill()
        assert client.wait(60) == 137
        wait_for(lambda: gone(pids[0]))
        psutil.Process(pids[1]).kill()
        assert not stages.look(server)["forked"]


def test_nothing_is_left_when_serving_ends(stages: Stages) -> None:
    before = {one.pid for one in servers()}
    with fork_server.serving() as server:
        folder = Path(server[fork_server.ENV]).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        client, pids = stages.waiting(server)
    assert {one.pid for one in servers()} == before
    assert not folder.exists()
    wait_for(lambda: all(gone(pid) for pid in pids))
    assert client.wait(60) != 0
    assert not stages.look(server)["forked"]


def test_the_server_ends_with_a_killed_parent(stages: Stages) -> None:
    source = """
        import json, time
        from pipeline.processes import fork_server as forkserver
        with forkserver.serving() as server:
            print(json.dumps(server), flush=True)
            time.sleep(300)
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    parent = subprocess.Popen(command, cwd=stages.folder, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = json.loads(parent.stdout.readline())
    client, waiting = stages.waiting(server)
    pids = [one.pid for one in psutil.Process(parent.pid).children()]
    assert pids
    parent.kill()
    parent.wait()
    wait_for(lambda: all(gone(pid) for pid in [*pids, *waiting]))
    assert client.wait(60) == 137
    shutil.rmtree(Path(server[fork_server.ENV]).parent)


def test_a_server_that_still_imports_ends_with_a_killed_parent(stages: Stages) -> None:
    source = """
        import os, socket, time
        from pipeline.processes import fork_server as forkserver
        with forkserver.serving() as server:
            with socket.socket(socket.AF_UNIX) as stage:
                stage.connect(server[forkserver.ENV])
                print(server[forkserver.ENV], flush=True)
                time.sleep(300)
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    parent = subprocess.Popen(command, cwd=stages.folder, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    address = parent.stdout.readline().strip()
    wait_for(lambda: bool(psutil.Process(parent.pid).children()))
    (server,) = psutil.Process(parent.pid).children()
    wait_for(lambda: any("numpy" in one.path for one in server.memory_maps()))  # as it imports
    server.suspend()  # for as long as that may take
    assert not fork_server.ready(address).exists()
    parent.kill()
    parent.wait()
    wait_for(lambda: gone(server.pid))
    shutil.rmtree(Path(address).parent)


def test_no_server_starts_before_a_stage_asks(stages: Stages) -> None:
    before = {one.pid for one in servers()}
    with fork_server.serving() as server:
        assert {one.pid for one in servers()} == before
        assert stages.look(server)["forked"]
        assert {one.pid for one in servers()} > before


def test_a_stage_without_a_model_does_not_wait_for_the_server(stages: Stages) -> None:
    with fork_server.serving() as fresh:
        before = {one.pid for one in servers()}
        command = ("prepare", "--cell", "ca", "--out", str(stages.folder / "out"))
        assert stages.run(fresh, *command)[0] == 0
        assert {one.pid for one in servers()} == before
        assert not fork_server.ready(fresh[fork_server.ENV]).exists()
        stages.look(fresh)
        assert fork_server.ready(fresh[fork_server.ENV]).exists()


def test_without_fork_stages_run_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "POSSIBLE", False)
    with fork_server.serving() as found:
        assert found == {}


def test_a_server_that_is_there_is_used_and_one_that_is_gone_is_not(
    server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fork_server.ENV, server[fork_server.ENV])
    with fork_server.serving() as found:
        assert found == {}
    monkeypatch.setenv(fork_server.ENV, "/nowhere/socket")
    with fork_server.serving() as found:
        assert found.keys() == {fork_server.ENV}


@pytest.mark.parametrize("seconds", [0.01, 0.03, 0.05, 0.08])
def test_an_interrupt_while_the_server_starts_prints_no_traceback(tmp_path, capfd, seconds):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        waiting = fork_server._Waiting(listener)
        waiting.start()
        client.connect(str(tmp_path / "s"))  # a stage: now the server starts
        wait_for(lambda: waiting._server)
        time.sleep(seconds)
        waiting._server.send_signal(signal.SIGINT)
        assert waiting._server.wait(30) == -signal.SIGINT
        waiting.end()
    assert "Traceback" not in capfd.readouterr().err
