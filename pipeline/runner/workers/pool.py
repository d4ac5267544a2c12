"""The workers as the flow sees them: how many cells they take now, and a cell given to one."""

import base64
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline.config.machines import Machines, cards
from pipeline.config.params_file import PARAMS
from pipeline.core import dag_names
from pipeline.core.errors import UserError
from pipeline.processes.launch.client import WAITS
from pipeline.processes.subprocesses import Stopped
from pipeline.runner.cell_graph import Cell
from pipeline.runner.workers import cluster, objects, record
from pipeline.runner.workers.nodes import CARDS, CELL, KIND, Nodes
from pipeline.runner.workers.places import Places
from pipeline.runner.workers.task import LOST, Desk, carry
from pipeline.runner.workers.turns import Turns

if TYPE_CHECKING:
    from dvc.stage import Stage

    from pipeline.runner.dvc_project import Project

RETRIES = 3  # by Ray, of a cell whose node died
LOOK_SECONDS = 0.3
GONE_SECONDS = 5.0  # after which Ray itself should have given a dead node's cell to another
Line = Callable[[str], None]


class Pool:
    """A connected cluster. Its methods may be called from several threads."""

    def __init__(self, ray: Any, runtime: Machines, changed: Callable[[], None]) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray, self._changed, self._near = ray, changed, NodeAffinitySchedulingStrategy
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._desk = ray.remote(num_cpus=0)(Desk).options(scheduling_strategy=here).remote()
        self._runtime, self._nodes = runtime, Nodes(ray)
        self._task = ray.remote(num_cpus=0, max_retries=RETRIES, retry_exceptions=False)(carry)
        self._lines: dict[str, Line] = {}
        self._refs: set[Any] = set()
        self._lock = threading.Lock()
        self._offered: set[str] = set()  # objects that others can have
        self._places = Places()
        self._cells: dict[str, Cell] = {}  # that workers have, or are about to
        self._holders: dict[str, str] = {}  # node of each cell's
        self._over = threading.Event()
        self.turns = Turns(self.room)
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def room(self, cell: Cell, running: list[Cell]) -> bool:
        """Whether a worker takes one more cell like this beside those."""
        return self._fits(self._nodes.room, cell, running)

    def _fits(self, room: Counter[str], cell: Cell, running: list[Cell]) -> bool:
        alike = [one for one in running if one.kind == cell.kind]
        if len(running) >= room[CELL] or len(alike) >= room[f"{KIND}{cell.kind}"]:
            return False
        return sum(map(self._cards, (cell, *alike))) <= room[CARDS]

    def _free(self, cell: Cell) -> dict[str, list[Cell]]:
        """Nodes that take the cell now, each with what it makes."""
        runs: dict[str, list[Cell]] = {node: [] for node in self._nodes.rooms}
        cells = self._cells.copy()
        for name, node in self._holders.items():
            if name in cells and node in runs:
                runs[node].append(cells[name])
        rooms = self._nodes.rooms.items()
        return {node: runs[node] for node, room in rooms if self._fits(room, cell, runs[node])}

    def _cards(self, cell: Cell) -> float:
        return cards(self._runtime, cell.name.partition("@")[0]) if cell.kind == "gpu" else 0

    def run(self, cell: Cell, project: "Project", stage: "Stage", line: Line) -> int:
        """Have a worker make the cell, and its outs put in place here; the stage's exit status.

        Raises Stopped once `stop` was called, UserError where what came back is damaged.
        """
        with project.alone():
            asked = self._asked(cell, project, stage)
        self._lines[cell.name] = line
        try:
            self.turns.wait(cell.name, lambda: line(f"{WAITS}a worker"))
            self._cells[cell.name] = cell
            result = self._held(cell, asked, line)
            self.turns.brought(cell.name)
            self._changed()
        finally:
            self._say()
            del self._lines[cell.name]
            self._cells.pop(cell.name, None)
        if result["status"]:
            return int(result["status"])
        with project.alone():
            objects.bring(project.repo, result["outs"], self._over)
        for entry in result["outs"]:
            self._offered.add(entry["md5"])
        self._places.made(cell, result["node"], [entry["path"] for entry in result["outs"]])
        return 0

    def kept(self, project: "Project", stage: "Stage") -> None:
        """The head has noted the cell: whoever has its inputs finds it."""
        from dvc.stage.serialize import to_single_stage_lockfile

        with project.alone():
            self._offer(project, to_single_stage_lockfile(stage).get("outs", []))
            objects.offer_run(project.repo, stage, self._over)

    def _offer(self, project: "Project", entries: list[dict[str, Any]]) -> None:
        new = [dict(one) for one in entries if one["md5"] not in self._offered]
        objects.offer(project.repo, new, self._over)
        self._offered |= {one["md5"] for one in entries}

    def stop(self) -> None:
        """End every cell; nothing more is given to a worker."""
        self._over.set()
        self.turns.stop()
        with self._lock:
            refs = list(self._refs)
        for ref in refs:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(ref, force=True)
        self._watch.join()

    def _held(self, cell: Cell, asked: dict[str, Any], line: Line) -> dict[str, Any]:
        """What came of the cell, by who has it now."""
        for order in itertools.count(1):
            result = self._result(cell, self._send(cell, {**asked, "order": order}), order, line)
            number = (result or {}).get("number")
            if result is None:
                continue
            if number is None or self._ray.get(self._desk.holds.remote(cell.name, number)):
                return result
            line(f"what try {number} brought is refused: another has the cell since")
        raise AssertionError

    def _send(self, cell: Cell, asked: dict[str, Any]) -> Any:
        options: dict[str, Any] = {"resources": {CELL: 1, f"{KIND}{cell.kind}": 1}}
        if taken := self._cards(cell):
            options["num_gpus"] = taken
        if node := self._places.best(cell, asked["reads"], self._free(cell)):
            options["scheduling_strategy"] = self._near(node, soft=True, _spill_on_unavailable=True)
        with self._lock:
            if self._over.is_set():
                raise Stopped
            ref = self._task.options(**options).remote(asked, self._desk)
            self._refs.add(ref)
        return ref

    def _result(self, cell: Cell, ref: Any, order: int, line: Line) -> dict[str, Any] | None:
        """What came of a task; None where its node is gone.

        Ray says that itself when the connection breaks, which a node that stands still keeps up
        for seven minutes.
        """
        exceptions, sent = self._ray.exceptions, time.monotonic()
        try:
            while not self._ray.wait([ref], timeout=LOOK_SECONDS)[0]:
                if self._gone(cell, sent):
                    self._ray.get(self._desk.give_up.remote(cell.name, order))
                    self._holders.pop(cell.name, None)
                    line("its node is gone: another gets the cell")
                    return None
            return dict(self._ray.get(ref))
        except exceptions.TaskCancelledError as error:
            raise Stopped from error
        except exceptions.RayTaskError as error:  # of our own code on a node
            line(f"Ray: {str(error).strip().splitlines()[-1]}")
            return {"status": 1}
        except exceptions.RayError as error:
            if self._over.is_set():
                raise Stopped from error
            line(f"Ray: {type(error).__name__}: its worker died {RETRIES + 1} times")
            return {"status": LOST}
        finally:
            with self._lock:
                self._refs.discard(ref)

    def _gone(self, cell: Cell, sent: float) -> bool:
        """Whether the cell's holder is on a dead node, or it may wait in the queue of one."""
        holder = self._holders.get(cell.name)
        died = list(self._nodes.died.items())
        times = [at for node, at in died if (node == holder if holder else at > sent)]
        return bool(times) and time.monotonic() - max(times) > GONE_SECONDS

    def _asked(self, cell: Cell, project: "Project", stage: "Stage") -> dict[str, Any]:
        """What a worker is told: files of git as they are, outs of other cells by their hashes."""
        from dvc.stage.serialize import to_single_stage_lockfile

        stage.save_deps()
        known = to_single_stage_lockfile(stage).get("deps", [])
        made = [dict(one) for one in known if project.made(one["path"])]
        files = [Path(one["path"]) for one in known if not project.made(one["path"])]
        for path in files:
            if not path.is_file():
                raise UserError(
                    f"{path}: found a folder that no cell makes, wanted a file, which can be sent "
                    "to a worker. Read it in as a file, or run without --on."
                )
        self._offer(project, made)
        sent = {str(p): base64.b64encode(p.read_bytes()).decode() for p in (*files, PARAMS)}
        return {
            "cell": cell.name,
            "cmd": stage.cmd,
            "files": sent,
            "deps": made,
            "outs": [out.def_path for out in stage.outs],
            "reads": sorted({project.made(one["path"]) for one in made}),
        }

    def _look(self) -> None:
        """Hand on what stages say, and count the room, until the end."""
        said = time.monotonic()
        while not self._over.wait(LOOK_SECONDS):
            with suppress(self._ray.exceptions.RayError):
                self._say()
                if self._nodes.look():
                    self._changed()
            self.turns.look()
            if self._nodes.room[CELL]:
                said = time.monotonic()
            elif time.monotonic() - said > 60:
                said = time.monotonic()
                typer.echo("no worker is there. Start some: omniopd worker --join HEAD:PORT")

    def _say(self) -> None:
        lines, self._holders = self._ray.get(self._desk.taken.remote([*self._lines]))
        for cell, text in lines:
            if line := self._lines.get(cell):
                line(text)


def remote(cell: Cell) -> bool:
    """Whether workers make cells like this; the plan is looked at here, and the report too, which
    reads all of it."""
    return cell.name not in ("plan", dag_names.REPORT)


@contextmanager
def opened(
    on: str, listen: str, plan: dict[str, Any], runtime: Machines, changed: Callable[[], None]
) -> Iterator[Pool]:
    """The workers of `on`: `ray`, whose head is started at `listen`, or `ray:HOST:PORT`.

    Raises UserError.
    """
    _, _, there = on.partition(":")
    cluster.environment(make=not there)
    with cluster.existing() if there else cluster.head(listen) as own:
        address = there or listen
        with cluster.connected(address, own) as ray:
            # workers wait for it: a node that joins before the head's own would be taken for it
            cluster.told(address).internal_kv_put(
                cluster.RECORD, record.made(plan), True, cluster.NAMESPACE.encode()
            )
            typer.echo(f"workers join by: omniopd worker --join {address}")
            pool = Pool(ray, runtime, changed)
            try:
                yield pool
            finally:
                pool.stop()
