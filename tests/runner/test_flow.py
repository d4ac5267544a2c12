"""The flow over a toy of six cells, two chains of three, in a DVC project without git."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from pipeline.plan import expand, experiment
from pipeline.processes.launch import kinds
from pipeline.runner import cell_graph, mirror
from pipeline.runner.cell_graph import Cell
from pipeline.runner.dvc_project import CellFailed
from tests.project import BIN, ROOT
from tests.telling import wait_for

DAG = """
stages:
  first:                       # its input is the script that it runs
    foreach: {a: {}, b: {}}
    do: {cmd: "sh in-${key} first-${key}", deps: ["in-${key}"], outs: ["first-${key}"]}
  second:
    foreach: {a: {}, b: {}}
    do:
      cmd: sleep 1; cp first-${key} second-${key}
      deps: ["first-${key}"]
      outs: ["second-${key}"]
  third:
    foreach: {a: {}, b: {}}
    do: {cmd: "cp second-${key} third-${key}", deps: ["second-${key}"], outs: ["third-${key}"]}
"""
GO = """
import logging, sys
from pathlib import Path
from pipeline.core.errors import UserError
from pipeline.runner import mirror
from pipeline.processes import stopping
from pipeline.runner.cell_graph import Cell
from pipeline.runner.flow import run_graph
mirror.END_SECONDS = 3600.0  # on a busy machine, too, Prefect is told all
before = {"first": None, "second": "first", "third": "second"}
graph = {
    f"{level}@{key}": Cell(
        name=f"{level}@{key}",
        label=f"{level} of {key}",
        reads=frozenset([f"{read}@{key}"] if read else []),
        gpu=level == "second",
    )
    for level, read in before.items()
    for key in "ab"
}
logging.basicConfig(level=logging.INFO)  # as the command `omniopd` does
try:
    run_graph(graph, 2, Path("results.md"), prefect="unseen" not in sys.argv)
except stopping.Stopped as error:
    print(f"error: {error}")
    sys.exit(error.status)
except UserError as error:
    sys.exit(f"error: {error}")
print("prefect was imported:", "prefect" in sys.modules)
"""

LEVELS = ("first", "second", "third")
ARTIFACTS = "select key, type, data from artifact where task_run_id is null"


def first(key: str) -> str:
    """The script of a cell of the first level."""
    return f"sleep 1; echo hears {key}; echo {key} > $1\n"


class Toy:
    """The toy in a folder, run in processes of its own: Prefect reads its settings once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", GO, *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def dvc(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.folder,
            env=self.environment,
            check=True,
            capture_output=True,
        )

    def rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.folder / ".prefect" / "prefect.db") as database:
            return database.execute(query, values).fetchall()

    def last_states(self) -> dict[str, tuple[str, int]]:
        """Each task run of the newest flow run with its state and how often it ran."""
        newest = "select id from flow_run order by created desc limit 1"
        query = f"select name, state_name, run_count from task_run where flow_run_id in ({newest})"
        return {name: (state, count) for name, state, count in self.rows(query)}

    def lock(self) -> Any:
        return YAML(typ="safe").load((self.folder / "dvc.lock").read_text())


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Toy, Toy]:
    """The toy after a flow, and the same after plain `dvc repro`."""
    toys = made(tmp_path_factory.mktemp("flow")), made(tmp_path_factory.mktemp("plain"))
    toys[1].dvc("repro", "-q")
    status, output = toys[0].run()
    assert status == 0, output
    return toys


def made(folder: Path) -> Toy:
    """The toy, of which nothing ran."""
    toy = Toy(folder)
    (toy.folder / "dvc.yaml").write_text(DAG)
    for key in "ab":
        (toy.folder / f"in-{key}").write_text(first(key))
    (toy.folder / "results.md").write_text("| a | table |\n")
    toy.dvc("init", "-q", "--no-scm")
    return toy


@pytest.fixture
def toy(ran: tuple[Toy, Toy], tmp_path: Path) -> Iterator[Toy]:
    """A copy of the toy that ran, with its caches and its Prefect database."""
    copy = Toy(tmp_path / "copy")
    shutil.copytree(ran[0].folder, copy.folder)
    yield copy
    for process in psutil.process_iter(["cwd"]):  # what a failed test has left
        if process.info["cwd"] == str(copy.folder):
            process.kill()


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def spans(toy: Toy) -> dict[str, tuple[float, float]]:
    rows = toy.rows("select name, start_time, end_time from task_run where state_name='Completed'")
    assert len(rows) == 6
    return {name: (seconds(start), seconds(end)) for name, start, end in rows}


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def test_prefect_holds_one_task_run_per_cell_after_those_it_reads(ran: tuple[Toy, Toy]) -> None:
    found = spans(ran[0])
    assert set(found) == {f"{level} of {key}" for level in LEVELS for key in "ab"}
    for key in "ab":
        first, second, third = (found[f"{level} of {key}"] for level in LEVELS)
        assert first[1] <= second[0]
        assert second[1] <= third[0]


def test_independent_cells_overlap_but_not_those_that_want_the_gpu(ran: tuple[Toy, Toy]) -> None:
    found = spans(ran[0])
    assert overlap(found["first of a"], found["first of b"])
    assert not overlap(found["second of a"], found["second of b"])


def test_the_lock_is_that_of_plain_dvc_repro(ran: tuple[Toy, Toy]) -> None:
    flow, plain = (toy.lock() for toy in ran)
    assert len(flow["stages"]) == 6
    assert flow == plain


def test_a_run_of_which_prefect_is_not_told_is_the_same_without_a_trace_of_it(
    ran: tuple[Toy, Toy], tmp_path: Path
) -> None:
    toy = made(tmp_path)
    status, output = toy.run("unseen")
    assert (status, output.splitlines()[-1]) == (0, "prefect was imported: False")
    assert toy.lock() == ran[1].lock()
    assert output.count("Running stage '") == 6
    assert not (toy.folder / ".prefect").exists()


def test_the_results_table_and_how_far_the_run_is_are_artifacts(ran: tuple[Toy, Toy]) -> None:
    found = {key: (type_, data) for key, type_, data in ran[0].rows(ARTIFACTS)}
    assert found == {
        "results": ("markdown", '"| a | table |\\n"'),
        "progress": ("progress", 100),
    }


def test_the_run_is_named_for_people_and_a_task_run_has_what_its_stage_said(
    ran: tuple[Toy, Toy],
) -> None:
    assert ran[0].rows("select name from flow_run") == [("cells: 6 of 6 cells",)]
    query = "select task_run.name, log.level, log.message from log join task_run"
    found = ran[0].rows(f"{query} on log.task_run_id = task_run.id")
    assert sorted(found) == [(f"first of {key}", 20, f"hears {key}") for key in "ab"]


def test_prefect_does_not_start_when_nothing_is_stale_or_the_cache_restores_it(toy: Toy) -> None:
    back = ["INFO:omniopd:3 of 3 missing outs are back from DVC's cache"]
    for gone, said in (([], []), (["first-a", "second-a", "third-b"], back)):
        for name in gone:
            (toy.folder / name).unlink()
        status, output = toy.run()
        assert (status, output.splitlines()) == (
            0,
            [*said, "nothing to do: 6 cells are up to date", "prefect was imported: False"],
        )
        assert all((toy.folder / name).is_file() for name in gone)
    assert len(toy.rows("select id from task_run")) == 6


def test_a_failed_cell_stops_what_reads_it_and_a_killed_one_is_tried_again(toy: Toy) -> None:
    (toy.folder / "in-a").write_text("[ -e tried ] || { touch tried; kill -9 $$; }; echo a > $1\n")
    (toy.folder / "in-b").write_text("echo 'error: b.parquet: wrong table' >&2; exit 1\n")
    status, output = toy.run()
    assert status == 1
    *lines, said = output.splitlines()
    assert said.startswith("error: 1 of 6 cells failed, 2 more")
    assert "first of b: error: b.parquet: wrong table" in said
    assert "Traceback" not in output
    assert "HTTP" not in output
    assert toy.last_states() == {
        "first of a": ("Completed", 2),
        "second of a": ("Completed", 1),
        "third of a": ("Completed", 1),
        "first of b": ("Failed", 1),
        "second of b": ("NotReady", 0),
        "third of b": ("NotReady", 0),
    }
    # first@a made what it made before: DVC is asked once more and no further
    assert "second@a | Stage 'second@a' didn't change, skipping" in lines
    assert [line for line in lines if line.startswith("third@a |")] == []


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_every_process_even_those_that_ignore_it(
    toy: Toy, number: signal.Signals
) -> None:
    (toy.folder / "in-a").write_text("trap '' INT TERM; sleep 300 & sleep 300\n")
    (toy.folder / "in-b").write_text("sleep 300\n")
    process = toy.start()
    family: list[psutil.Process] = []
    limit = time.monotonic() + 120
    while [one.name() for one in family].count("sleep") < 3:
        assert time.monotonic() < limit
        time.sleep(0.2)
        family = [p for p in psutil.Process(process.pid).children(recursive=True) if alive(p)]
    if number is signal.SIGTERM:
        process.send_signal(number)
    else:  # as a terminal does it: all that are in its group hear it
        os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert output.splitlines()[-1].startswith("error: stopped by a signal; 0 of 6 cells")
    assert len(output.split("Running stage 'first@b'")[1].splitlines()) <= 5
    assert "Traceback" not in output
    assert [one for one in family if alive(one)] == []


def test_after_a_kill_the_finished_cells_are_restored_and_none_runs_again(toy: Toy) -> None:
    before = toy.lock()
    (toy.folder / "in-a").write_text("echo other > $1\n")
    (toy.folder / "in-b").write_text("sleep 300\n")
    process = toy.start()
    family: list[psutil.Process] = []
    assert process.stdout is not None
    for line in process.stdout:
        family = psutil.Process(process.pid).children(recursive=True)
        if "third of a" in line:
            break
    assert {"sleep", "sh"} <= {one.name() for one in family}
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(one) for one in family))
    assert toy.lock() != before  # each cell is in it when it ends
    (toy.folder / "in-b").write_text(first("b"))
    status, output = toy.run()
    assert status == 0
    assert "Running stage" not in output
    assert (toy.folder / "third-a").read_text() == "other\n"
    assert (toy.folder / "third-b").read_text() == "b\n"


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)]
)
def test_a_run_goes_on_when_prefect_is_killed_or_stopped(toy: Toy, number: signal.Signals) -> None:
    (toy.folder / "in-a").write_text("while [ ! -e go ]; do sleep 0.1; done; echo new > $1\n")
    process = toy.start()
    found: list[psutil.Process] = []
    limit = time.monotonic() + 120
    while not found:
        assert time.monotonic() < limit
        time.sleep(0.1)
        children = psutil.Process(process.pid).children()
        found = [one for one in children if "pipeline.runner.prefect_server" in one.cmdline()]
    found[0].send_signal(number)
    (toy.folder / "go").touch()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert (toy.folder / "third-a").read_text() == "new\n"
    said = [line for line in output.splitlines() if line.startswith("Prefect does")]
    why = "it was killed" if number is signal.SIGKILL else "it does not answer"
    more = f"{mirror.WITHOUT} {mirror.LATER}"
    assert said == [f"Prefect does not show this run to its end: {why}. {more}"]
    assert not alive(found[0])
    (untold,) = (toy.folder / mirror.UNTOLD).iterdir()
    untold.with_name("damaged.jsonl").write_bytes(b'{"run": "x"}\n\xff{"')  # and one of no use
    (toy.folder / "in-b").write_text("echo newer > $1\n")
    status, output = toy.run()
    assert status == 0, output
    assert not any((toy.folder / mirror.UNTOLD).iterdir())
    told = "select id from flow_run where tags like ?"
    query = f"select name, state_name from task_run where flow_run_id in ({told})"
    states = dict(toy.rows(query, f"%{untold.stem}%"))
    assert states == {f"{level} of {key}": "Completed" for level in LEVELS for key in "ab"}
    assert {state for (state,) in toy.rows("select state_name from flow_run")} == {"Completed"}


@pytest.mark.slow
def test_a_run_goes_on_where_prefect_has_no_folder(toy: Toy) -> None:
    shutil.rmtree(toy.folder / ".prefect")
    (toy.folder / ".prefect").write_text("a file\n")
    (toy.folder / "in-a").write_text("echo new > $1\n")
    status, output = toy.run()
    assert status == 0
    assert (toy.folder / "third-a").read_text() == "new\n"
    (said,) = [line for line in output.splitlines() if line.startswith("Prefect does")]
    assert "FileExistsError" in said
    assert said.endswith(mirror.WITHOUT)


@pytest.mark.slow
def test_a_damaged_database_is_moved_aside_and_a_new_one_shows_the_run(toy: Toy) -> None:
    database = toy.folder / ".prefect" / "prefect.db"
    damage = b"not a database at all " * 1000
    for name in ("prefect.db", "prefect.db-wal", "prefect.db-shm"):
        database.with_name(name).write_bytes(damage)
    (toy.folder / "in-a").write_text("echo new > $1\n")
    status, output = toy.run()
    assert status == 0
    assert "Traceback" not in output
    (said,) = [line for line in output.splitlines() if line.startswith("Prefect: ")]
    (aside,) = database.parent.glob("prefect.db.not-a-database-*Z")
    assert said == (
        "Prefect: .prefect/prefect.db is damaged (file is not a database): moved to "
        f"{aside.name}, a new one is made."
    )
    assert aside.read_bytes() == damage
    assert {state for state, _ in toy.last_states().values()} == {"Completed"}


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_cells_are_named_for_people_and_come_after_those_they_read() -> None:
    expanded = expand.expand(experiment.load(ROOT / "tests" / "miniature.yaml"))
    said = "omniopd and 2 more arms, 1 round, 1 seed"
    assert cell_graph.title(expanded).endswith(f": {said}")
    graph = cell_graph.graph(expanded, gpu=True)
    assert set(graph) == {"plan", *expand.upstream(expanded)}
    key = expanded["cells"]["arms"]["omniopd"]["seed-0"]["round-1"]["train"]
    assert graph[f"train@{key}"].label == f"train omniopd round 1 seed 0 ({key})"
    assert len({cell.label for cell in graph.values()}) == len(graph)
    seen: set[str] = set()
    for name, cell in graph.items():
        assert cell.reads <= seen
        assert bool(cell.reads) == (name != "plan")
        seen.add(name)
    loaders = {name.partition("@")[0].split("-")[0] for name in seen if graph[name].gpu}
    assert loaders <= kinds.GPU
    assert not any(cell.gpu for cell in cell_graph.graph(expanded, gpu=False).values())


def test_the_longest_chain_goes_first() -> None:
    reads: dict[str, list[str]] = {"a": [], "b": [], "c": ["b"], "d": ["c", "a"]}
    graph = {name: Cell(name, name, frozenset(before)) for name, before in reads.items()}
    assert cell_graph.waiting_chains(graph) == {"a": 1, "b": 2, "c": 1, "d": 0}


def test_a_cell_is_ready_when_the_last_that_it_reads_is_done_in_its_place_among_others() -> None:
    reads: dict[str, list[str]] = {"a": [], "b": [], "c": ["b"], "d": ["c", "a"], "e": ["b"]}
    graph = {name: Cell(name, name, frozenset(before)) for name, before in reads.items()}
    ready = cell_graph.Ready(graph)
    assert ready.names == ["b", "a"]
    for done, then in (("b", ["a", "c", "e"]), ("a", ["c", "e"]), ("c", ["d", "e"])):
        ready.names.remove(done)
        ready.done(done)
        assert ready.names == then


@pytest.mark.parametrize(
    ("status", "killed"), [(1, False), (2, False), (None, False), (-9, True), (137, True)]
)
def test_only_a_killed_stage_is_tried_again(status: int | None, killed: bool) -> None:
    assert CellFailed("it said this", status).killed is killed
