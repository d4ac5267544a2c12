"""The plan's cells as a Prefect flow: a task run each, independent ones side by side.

DVC stays the only cache and the only judge of what is stale: a task run brings one cell up to date
as `dvc repro` does, or does nothing where neither the cell nor anything that it reads changed. A
cell is handed to Prefect when all that it reads is done, so no worker waits for another. Prefect's
database is .prefect/prefect.db; `PREFECT_HOME=.prefect prefect server start` shows it in a browser.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import typer

from pipeline import cells, dag, forkserver, keeping, plan, reproduction, server, verified
from pipeline.engines.resident import lending
from pipeline.errors import UserError
from pipeline.processes import Processes

if TYPE_CHECKING:
    from prefect import State
    from prefect.futures import PrefectFuture

RESULTS = Path("data/report/results.md")
# stages, or groups of one, that load a model
GPU = {"pretrain", "rollout", "forks-student", "teach", "prior-teacher", "train", "evaluate"}
GPU |= {"steps"}
RETRIES = {"teach": 2}  # the store keeps its answers, so that another try asks for fewer
RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class Cell:
    """A stage of dvc.yaml as the flow sees it."""

    name: str  # DVC's: GROUP@KEY
    label: str  # for people
    reads: frozenset[str]  # names of cells
    gpu: bool = False
    retries: int = 1  # where its stage was killed; never where it refused its input


def run(parallel: int) -> None:
    """Bring every cell of plan.yaml up to date, `parallel` at a time. Raises UserError."""
    found, runtime = dag.current(), cells.runtime()
    cells_of = graph(found, gpu=runtime.device != "cpu")
    keep = keeping.of(found, keeping.wanted())
    while not run_graph(cells_of, parallel, keep=keep, shared=runtime.drop_shared):
        typer.echo("experiment.keep: dropped checkpoints turned out to be read; going on with them")


def graph(found: dict[str, Any], gpu: bool) -> dict[str, Cell]:
    """The plan's cells in dependency order, stage `plan` first."""
    labels = _labels(found)
    built = {"plan": Cell("plan", "plan", frozenset())}
    for name, reads in plan.upstream(found).items():
        group, _, key = name.partition("@")
        stage = group.split("-")[0]
        built[name] = Cell(
            name=name,
            label=f"{labels.get(key, group)} ({key})",
            reads=frozenset(reads or {"plan"}),
            gpu=gpu and bool(GPU & {stage, group}),
            retries=max(RETRIES.get(one, 1) for one in plan.stages(found, group, key)),
        )
    return built


def _labels(found: dict[str, Any]) -> dict[str, str]:
    """Key: stage and the first arm that uses the cell, with round, seed and how many more do."""
    users: dict[str, list[str]] = {}
    spans = plan.spans(found)
    for arm, seeds in plan.named(found).items():
        for seed, rounds in seeds.items():
            for round_, stages in rounds.items():
                for stage, key in stages.items():
                    kind, which = key.split("/")[1] if "/" in key else stage, round_
                    if key in spans:
                        kind, which = "steps", "rounds {}-{}".format(*spans[key])
                    where = f"{kind} {arm} {which.replace('round-', 'round ')} {seed}"
                    label = where.replace("seed-", "seed ")
                    users.setdefault(key.rpartition("/")[2], []).append(label)
    users = {key: list(dict.fromkeys(labels)) for key, labels in users.items()}
    return {
        key: first + (f" and {len(others)} more" if others else "")
        for key, (first, *others) in users.items()
    }


def run_graph(
    graph: dict[str, Cell],
    parallel: int,
    results: Path = RESULTS,
    keep: keeping.Keep = keeping.ALL,
    shared: bool = False,
) -> bool:
    """Bring the cells of `graph`, in dependency order, up to date in the current DVC project.

    False if some turned out to read checkpoints that `keep` had dropped: call it again, and these
    are made first. Raises UserError naming the cells that failed, when those that do not read them
    are done; or after Ctrl-C or SIGTERM, when everything that was started has ended.
    """
    start = time.perf_counter()
    project = reproduction.Project(keep, shared)
    stale = project.stale(graph)
    if not stale:
        project.drop(keep.over(graph))
        project.settle(graph)
        typer.echo(f"nothing to do: {len(graph)} cells are up to date")
        return True
    again = f", {project.revived()}" if project.revived() else ""
    typer.echo(f"{len(stale)} of {len(graph)} cells changed{again}")
    with server.alone(), _interruptible(), forkserver.serving() as warm, lending() as lent:
        environment = {**dag.environment(), **warm, **lent, **verified.asked(project.cache)}
        flow = _Flow(project, graph, stale, parallel, environment, keep)
        try:
            flow.run(results)
        except KeyboardInterrupt:
            raise UserError(
                f"stopped by a signal; {len(flow.done)} of {len(graph)} cells are done and kept. "
                "Nothing that was started still runs. Run it again to go on."
            ) from None
    typer.echo(f"run: {time.perf_counter() - start:.0f} s")
    return not flow.starved


class _Flow:
    """One run of the graph. Prefect is imported below here and nowhere else."""

    def __init__(
        self,
        project: reproduction.Project,
        graph: dict[str, Cell],
        stale: set[str],
        parallel: int,
        environment: dict[str, str],
        keep: keeping.Keep,
    ) -> None:
        self.project, self.graph, self.stale, self.parallel = project, graph, stale, parallel
        self.keep = keep
        self.starved = False  # a cell failed because it reads a dropped checkpoint
        self.processes = Processes(environment)
        self.ran: set[str] = set()  # cells that DVC ran or restored
        self.seconds: dict[str, float] = {}  # of the cells that DVC was asked for
        self.done: list[str] = []
        self.failed: dict[str, str] = {}  # cell: the last that it said
        self.skipped: list[str] = []

    def run(self, results: Path) -> None:
        """Raises UserError if a cell failed."""
        server.configure()
        from prefect import flow
        from prefect.artifacts import create_markdown_artifact
        from prefect.task_runners import ThreadPoolTaskRunner

        server.start(any(cell.gpu for cell in self.graph.values()))
        runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=self.parallel)

        @flow(name="omniopd", task_runner=runner, persist_result=False)  # type: ignore[arg-type]
        def omniopd() -> None:
            try:
                self.schedule()
            finally:
                _deaf()
                self.processes.stop()
                self.project.settle(self.done)
            self.complain()
            if results.is_file():
                create_markdown_artifact(results.read_text(), key="results")

        omniopd()

    def schedule(self) -> None:
        """Submit each cell when all that it reads is done, those with the most to follow first."""
        following = _following(self.graph)
        waiting = sorted(self.graph, key=lambda name: -following[name])
        futures: dict[str, PrefectFuture[None]] = {}
        finished: SimpleQueue[str] = SimpleQueue()
        over: set[str] = set()  # done, failed or skipped
        submit = self.submitter()
        while len(over) < len(self.graph):
            free = self.parallel - (len(futures) - len(over))
            for name in [name for name in waiting if self.graph[name].reads <= over][:free]:
                waiting.remove(name)
                cell = self.graph[name]
                futures[name] = submit(cell, [futures[read] for read in cell.reads])
                futures[name].add_done_callback(lambda _, name=name: finished.put(name))  # type: ignore[misc]
            name = finished.get()
            over.add(name)
            outcome = self.outcome(name, futures[name])
            self.project.drop(self.keep.over(self.done))
            typer.echo(f"cell {len(over)} of {len(self.graph)}: {self.graph[name].label} {outcome}")

    def submitter(self) -> "Callable[[Cell, list[PrefectFuture[None]]], PrefectFuture[None]]":
        """A function that hands Prefect a cell with the futures of the cells that it reads."""
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        def may_help(_task: object, _run: object, state: "State[Any]") -> bool:
            error = state.data
            return isinstance(error, reproduction.CellFailed) and error.killed

        @task(
            task_run_name="{label}",
            cache_policy=NO_CACHE,
            persist_result=False,
            retry_delay_seconds=RETRY_SECONDS,
            retry_condition_fn=may_help,
        )
        def cell(name: str, label: str) -> None:
            self.work(self.graph[name])

        def submit(one: Cell, reads: "list[PrefectFuture[None]]") -> "PrefectFuture[None]":
            fitted = cell.with_options(tags=["gpu"] if one.gpu else [], retries=one.retries)
            return fitted.submit(one.name, one.label, wait_for=reads, return_state=False)

        return submit

    def work(self, cell: Cell) -> None:
        """What a task run does. Raises CellFailed."""
        if cell.name not in self.stale and not cell.reads & self.ran:
            return
        start = time.perf_counter()
        if self.project.reproduce(cell.name, self.command):
            self.ran.add(cell.name)
        self.seconds[cell.name] = time.perf_counter() - start

    def command(self, text: str, line: Callable[[str], None]) -> int:
        """Run a stage's command as DVC does, by the shell; its status."""
        return self.processes.run(["/bin/sh", "-c", text], line)

    def outcome(self, name: str, future: "PrefectFuture[None]") -> str:
        """Note how a task run ended; in words. Raises what is not the cell's own failure."""
        future.wait()
        if future.state.is_completed():
            self.done.append(name)
            return f"{self.seconds[name]:.1f} s" if name in self.seconds else "unchanged"
        if future.state.is_pending():
            self.skipped.append(name)
            return "not run: a cell that it reads failed"
        try:
            future.result()
        except reproduction.CellFailed as error:
            if isinstance(error, reproduction.Starved):
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
                f"that read them were not run. {said}. More of what they said is above. Mend that "
                "and run it again: finished cells are not repeated."
            )


def _following(graph: dict[str, Cell]) -> dict[str, int]:
    """Length of the longest chain of cells that waits for each cell."""
    length = dict.fromkeys(graph, 0)
    for name in reversed(graph):
        for read in graph[name].reads:
            length[read] = max(length[read], length[name] + 1)
    return length


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does."""
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _deaf() -> None:
    """Ignore further signals while the last ones are obeyed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
