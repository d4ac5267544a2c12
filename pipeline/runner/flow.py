"""The plan's cells, independent ones side by side, shown by Prefect as a flow of a task run each.

DVC stays the only cache and the only judge of what is stale: a cell is brought up to date as
`dvc repro` does, or left where neither it nor what it reads changed. Prefect is told what happens
(pipeline/runner/mirror.py) and decides nothing: without it the run is the same. To see it in a
browser: `PREFECT_HOME=.prefect prefect server start`.
"""

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING

import typer

from pipeline.config import machines
from pipeline.core import verified
from pipeline.core.errors import UserError
from pipeline.engines.vllm.resident import lending
from pipeline.processes import fork_server, memory, reaper, stopping
from pipeline.processes.launch.client import RUNS, WAITS
from pipeline.processes.subprocesses import Processes
from pipeline.runner import dvc_project, restoring, retention
from pipeline.runner.cell_graph import Cell, Ready, graph, title
from pipeline.runner.dag import plan_files
from pipeline.runner.mirror import Mirror, Unseen
from pipeline.runner.sharing import busy, links
from pipeline.runner.workers import pool

if TYPE_CHECKING:
    from dvc.stage import Stage

RESULTS = Path("data/report/results.md")
RETRY_SECONDS = 5.0
TIDY = 50  # cells after which freed memory goes back to the system
LOCAL = "local"  # where cells are made: here
Workers = Callable[[Callable[[], None]], AbstractContextManager["pool.Pool"]]


def run(parallel: int, on: str = LOCAL, listen: str = "", prefect: bool = True) -> None:
    """Bring every cell of the plan up to date, `parallel` at a time here. Raises UserError.

    `on` and `listen`: where its cells are made, as pipeline/runner/workers/pool.py has it.
    `prefect`: it is told what happens.
    """
    found, runtime = plan_files.current(), machines.read()
    cells_of = graph(found, gpu=runtime.gpu_here and on == LOCAL)
    keep = retention.of(found, retention.wanted())
    workers = None if on == LOCAL else functools.partial(pool.opened, on, listen, found, runtime)
    passed = functools.partial(run_graph, cells_of, parallel, RESULTS, keep, runtime.drop_shared)
    while not passed(workers, title(found), prefect):
        said = "dropped checkpoints turned out to be read; going on with them"
        typer.echo(f"experiment.keep_checkpoints: {said}")
    links.settle()


def run_graph(
    graph: dict[str, Cell],
    parallel: int,
    results: Path = RESULTS,
    keep: retention.Keep = retention.ALL,
    shared: bool = False,
    workers: Workers | None = None,
    name: str = "cells",
    prefect: bool = True,
) -> bool:
    """Bring the cells of `graph`, in dependency order, up to date in the current DVC project.

    `name`: of the run in Prefect, if it is told. False if some turned out to read checkpoints that
    `keep` had dropped: call it again, and these are made first. Raises UserError naming the cells
    that failed, when those that do not read them are done; Stopped when a signal ended it all.
    """
    start = time.perf_counter()
    restoring.restore(keep, plan_files.dvc("checkout"), plan_files.environment())
    project = dvc_project.Project(keep, shared)
    stale = project.stale(graph)
    if not stale:
        project.drop(keep.over(graph))
        project.settle(graph)
        typer.echo(f"nothing to do: {len(graph)} cells are up to date")
        return True
    again = f", {project.revived()}" if project.revived() else ""
    typer.echo(f"{len(stale)} of {len(graph)} cells changed{again}")
    done: list[str] = []
    try:
        with (
            busy.alone(),
            stopping.heard(),
            reaper.watched(),
            fork_server.serving() as warm,
            lending() as lent,
        ):
            environment = plan_files.environment() | warm | lent | verified.asked(project.cache)
            flow = _Flow(project, graph, stale, parallel, environment, keep, done)
            flow.mirror.name = f"{name}: {len(stale)} of {len(graph)} cells"
            flow.mirror = flow.mirror if prefect else Unseen()
            with workers(flow.look) if workers else nullcontext() as flow.pool:
                flow.run(results)
    except stopping.Asked as asked:
        kept = f"{len(done)} of {len(graph)} cells are done and kept"
        still = "Nothing that was started still runs. Rerun to go on."
        raise stopping.Stopped(f"{kept}. {still}", asked) from None
    typer.echo(f"run: {time.perf_counter() - start:.0f} s")
    return not flow.starved


class _Flow:
    """One run of the graph."""

    def __init__(
        self,
        project: dvc_project.Project,
        graph: dict[str, Cell],
        stale: set[str],
        parallel: int,
        environment: dict[str, str],
        keep: retention.Keep,
        done: list[str],
    ) -> None:
        self.project, self.graph, self.stale, self.parallel = project, graph, stale, parallel
        self.keep, self.done = keep, done
        self.starved = False  # a cell failed because it reads a dropped checkpoint
        self.processes = Processes(environment)
        self.finished: SimpleQueue[tuple[str, Exception | None]] = SimpleQueue()
        self.stopping = Event()
        gpu = any(cell.gpu for cell in graph.values())
        self.mirror: Mirror | Unseen = Mirror(len(graph), gpu, changed=self.look)
        self.pool: pool.Pool | None = None  # workers; else all cells are made here
        self.ran: set[str] = set()  # cells that DVC ran or restored
        self.seconds: dict[str, float] = {}  # of cells that DVC was asked for
        self.failed: dict[str, str] = {}  # cell: the last that it said
        self.skipped: list[str] = []
        self.lost: set[str] = set()  # failed, starved or skipped

    def look(self) -> None:
        """Have `schedule` look again at what may start."""
        self.finished.put(("", None))

    def run(self, results: Path) -> None:
        """Raises UserError if a cell failed."""
        with self.mirror.showing(results):
            try:
                self.schedule()
            finally:
                with stopping.later():
                    self.stopping.set()
                    self.processes.stop()
                    if self.pool:
                        self.pool.stop()
                    self.project.settle(self.done)
            self.complain()

    def schedule(self) -> None:
        """Start each cell when all that it reads is done, those with the most to follow first."""
        self.ready = Ready(self.graph)
        with memory.resting():
            self._schedule(self.ready)

    def _schedule(self, ready: Ready) -> None:
        running: set[str] = set()
        over: set[str] = set()  # done, failed or skipped
        while len(over) < len(self.graph):
            for name in list(ready.names):
                if self.may_start(name, running):
                    ready.names.remove(name)
                    running.add(name)
                    self.start(self.graph[name])
            name, error = self.finished.get()
            if not name:  # Prefect's limit is another
                continue
            running.remove(name)
            over.add(name)
            ready.done(name)
            outcome = self.outcome(name, error)
            self.project.drop(self.keep.over(self.done))
            typer.echo(f"cell {len(over)} of {len(self.graph)}: {self.graph[name].label} {outcome}")
            if self.pool:
                self.pool.turns.ended(name)
            if not len(over) % TIDY:
                memory.give_back()

    def may_start(self, name: str, running: set[str]) -> bool:
        """Whether there is a place for one more cell, and on the GPU for one that wants it."""
        if self.pool and pool.remote(self.graph[name]):
            return self.pool.turns.takes(self.graph[name], self.ready.following[name])
        busy = sum(self.graph[one].gpu for one in running)
        return len(running) < self.parallel and (
            not self.graph[name].gpu or busy < self.mirror.gpu_cells
        )

    def start(self, cell: Cell) -> None:
        """Do the cell in a thread of its own, which ends with a word in `finished`."""
        if cell.reads & self.lost:
            self.finished.put((cell.name, None))
        else:
            Thread(target=self.attempts, args=[cell], daemon=True).start()

    def attempts(self, cell: Cell) -> None:
        """Once, and again while its stage is killed and tries are left."""
        error: Exception | None = None
        for left in range(cell.retries, -1, -1):
            self.show(cell, "RUNNING", "Running" if error is None else "Retrying")
            try:
                self.work(cell)
            except dvc_project.CellFailed as failed:
                error = failed
                if left and failed.killed:
                    self.show(cell, "SCHEDULED", "AwaitingRetry", str(failed))
                    if not self.stopping.wait(RETRY_SECONDS):
                        continue
            except Exception as other:  # noqa: BLE001 - `outcome` raises it in the main thread
                error = other
            else:
                error = None
            break
        self.finished.put((cell.name, error))

    def show(self, cell: Cell, type_: str, name: str, message: str = "") -> None:
        self.mirror.cell(cell.name, cell.label, cell.gpu, cell.reads, type_, name, message)

    def work(self, cell: Cell) -> None:
        """Bring one cell up to date. Raises CellFailed."""
        if cell.name not in self.stale and not cell.reads & self.ran:
            return
        start = time.perf_counter()
        run = functools.partial(self.command, cell)
        if self.project.reproduce(cell.name, run, self.kept):
            self.ran.add(cell.name)
        self.seconds[cell.name] = time.perf_counter() - start

    def command(self, cell: Cell, stage: "Stage", line: Callable[[str], None]) -> int:
        """Run a stage's command as DVC does, by the shell, or have a worker do it; its status."""

        def heard(said: str) -> None:
            line(said)
            self.mirror.said(cell.name, said)
            if said.startswith(WAITS):  # in a queue, by runtime.launch
                self.show(cell, "PENDING", "Queued", said)
            elif said.startswith(RUNS):
                self.show(cell, "RUNNING", "Running", said)

        if self.pool and pool.remote(cell):
            return self.pool.run(cell, self.project, stage, heard)
        return self.processes.run(["/bin/sh", "-c", stage.cmd], heard)

    def kept(self, stage: "Stage") -> None:
        if self.pool:
            self.pool.kept(self.project, stage)

    def outcome(self, name: str, error: Exception | None) -> str:
        """Note how a cell ended; in words. Raises what is not the cell's own failure."""
        cell = self.graph[name]
        if cell.reads & self.lost:
            self.lost.add(name)
            self.skipped.append(name)
            self.show(cell, "PENDING", "NotReady")
            return "not run: a cell that it reads failed"
        if error is None:
            self.done.append(name)
            self.show(cell, "COMPLETED", "Completed")
            return f"{self.seconds[name]:.1f} s" if name in self.seconds else "unchanged"
        if not isinstance(error, dvc_project.CellFailed):
            raise error
        self.lost.add(name)
        self.show(cell, "FAILED", "Failed", str(error))
        if isinstance(error, dvc_project.Starved):
            self.starved = True
            return str(error)
        self.failed[name] = str(error)
        return "failed"

    def complain(self) -> None:
        """Raise UserError if a cell failed."""
        if self.failed:
            said = "; ".join(f"{self.graph[n].label}: {last}" for n, last in self.failed.items())
            raise UserError(
                f"{len(self.failed)} of {len(self.graph)} cells failed, {len(self.skipped)} more "
                f"that read them were not run. {said}. More of what they said is above. Fix this, "
                "then rerun: finished cells are not repeated."
            )
