"""What Prefect has of a run: a flow run, a task run for each cell, logs, progress, the results.

Used by the process of pipeline/runner/prefect_server.py alone. Prefect's own functions for
artifacts also send an event, and start a server on a port for that: so its API is asked instead.
"""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pipeline.processes import cell_log

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import State

DATA = Path("data")  # the lock of cell KEY is in it: STAGE/.KEY.lock
LINES = 200  # of stages, written at once
INFO, ERROR = 20, 40  # levels of lines


class Mirrored:
    """One flow run and its task runs in Prefect."""

    def __init__(self, client: "PrefectClient", flow_run: UUID, cells: int = 0) -> None:
        """`cells`: of the whole run; 0 where that is not known."""
        from prefect import Task

        self.client, self.flow_run, self.cells = client, flow_run, cells
        self.task: Any = Task(placeholder, name="cell")
        self.runs: dict[str, UUID] = {}  # by cell
        self.running: set[str] = set()
        self.done: set[str] = set()
        self.lines: list[dict[str, Any]] = []  # that Prefect does not have yet
        self.shown: dict[str, tuple[str, float]] = {}  # artifact and percent; "" is the whole run

    async def told(self, told: dict[str, Any]) -> None:
        """A line after the first."""
        if "said" in told:
            await self.said(told)
        elif "cell" in told:
            await self.cell(told)
        else:
            await self.end(told)

    async def said(self, told: dict[str, Any]) -> None:
        """A line that a cell's stage wrote, for the log of its task run."""
        if told["cell"] not in self.runs:
            return
        line = {
            "name": told["cell"],
            "level": ERROR if told["said"].startswith(cell_log.REFUSED) else INFO,
            "message": told["said"],
            "timestamp": _time(told).isoformat(),
            "flow_run_id": str(self.flow_run),
            "task_run_id": str(self.runs[told["cell"]]),
        }
        self.lines.append(line)
        if len(self.lines) >= LINES:
            await self.log()

    async def log(self) -> None:
        """Write the lines that wait."""
        lines, self.lines = self.lines, []
        if lines:
            await self.client.create_logs(lines)

    async def cell(self, told: dict[str, Any]) -> None:
        """A cell's new state; the task run is made with its first."""
        from prefect.client.schemas.objects import TaskRunResult

        name, state = told["cell"], state_of(told)
        (self.running.add if state.is_running() else self.running.discard)(name)
        if state.is_completed():
            self.done.add(name)
            if name in self.shown:
                await self.progress(name, 100.0, "done")
        if name in self.runs:
            await self.client.set_task_run_state(self.runs[name], state, force=True)
            return
        reads = [TaskRunResult(id=self.runs[one]) for one in told["reads"] if one in self.runs]
        run = await self.client.create_task_run(
            self.task,
            flow_run_id=self.flow_run,
            dynamic_key=name,
            name=told["label"],
            extra_tags=["gpu"] if told["gpu"] else [],
            state=state,
            task_inputs={"reads": list(reads)},
        )
        self.runs[name] = run.id

    async def look(self) -> None:
        """Write what waits, and how far the run and the stages that run in this folder are."""
        await self.log()
        await self.whole()
        for name in sorted(self.running):
            if (far := _far(name)) is not None:
                await self.progress(name, *far)

    async def whole(self) -> None:
        """How far the run is."""
        if self.cells:
            said = f"{len(self.done)} of {self.cells} cells are done"
            await self.progress("", 100.0 * len(self.done) / self.cells, said)

    async def progress(self, name: str, percent: float, said: str) -> None:
        """How far a cell is, or "" for the run, as an artifact of it."""
        artifact, before = self.shown.get(name, ("", -1.0))
        if percent == before:
            return
        text = {"data": percent, "description": said}
        if artifact:
            path = {"id": artifact}
            await self.client.request("PATCH", "/artifacts/{id}", path_params=path, json=text)
        else:
            whose = {"flow_run_id": str(self.flow_run)}
            whose |= {"task_run_id": str(self.runs[name])} if name else {"key": "progress"}
            artifact = await self._artifact({"type": "progress", **text, **whose})
        self.shown[name] = (artifact, percent)

    async def _artifact(self, artifact: dict[str, Any]) -> str:
        made = await self.client.request("POST", "/artifacts/", json=artifact)
        return str(made.json()["id"])

    async def end(self, told: dict[str, Any]) -> None:
        """The run's last state, and its results table as an artifact."""
        for name in sorted(self.running):  # the run was stopped in their midst
            await self.client.set_task_run_state(self.runs[name], state_of(told), force=True)
        await self.log()
        await self.whole()
        if told["results"] is not None:
            whose = {"key": "results", "flow_run_id": str(self.flow_run)}
            await self._artifact({"type": "markdown", "data": told["results"], **whose})
        await self.client.set_flow_run_state(self.flow_run, state_of(told), force=True)


def placeholder() -> None:
    """In the place of Prefect's flow and tasks: pipeline/runner/flow.py does the work."""


def state_of(told: dict[str, Any]) -> "State[Any]":
    from prefect.client.schemas.objects import State, StateType

    return State(
        type=StateType(told["type"]),
        name=told["name"],
        message=told["message"],
        timestamp=_time(told),
    )


def _time(told: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(told["at"], UTC)


def _far(cell: str) -> tuple[float, str] | None:
    """Percent and words, as the stage's own bar has it; None where it runs elsewhere or has none.

    A stage may have one bar after another.
    """
    key = cell.rpartition("@")[2]
    for path in DATA.glob(f"*/.{key}.lock"):
        held = cell_log.read(path)
        state = held.state if held is not None else {}
        with suppress(KeyError, TypeError, ZeroDivisionError):
            rate = f"{state['per_second']:.3g} a second"
            said = f"{state['what']}: {state['done']} of {state['total']}, {rate}"
            return 100.0 * state["done"] / state["total"], said
    return None
