"""A look at the experiment in this folder: the state of each cell of the plan.

done      its outs are in the folder, made by this code of these inputs
cached    they are in DVC's cache alone: the next run restores them
running   a stage holds its lock
failed    a stage ended by an error, or was killed, and what it was to make is not there
ready     all that it reads is there: it has to run, or run again
waiting   it reads a cell that is not done
"""

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.commands.status import settled, writers
from pipeline.commands.status.training import Training
from pipeline.commands.status.writers import Writer
from pipeline.core import dag_names
from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment
from pipeline.plan.blocks import PARAMS
from pipeline.runner.cell_graph import title
from pipeline.runner.dag import dag_files
from pipeline.stage import cells, dataflow
from pipeline.stage.run_records import DATA

if TYPE_CHECKING:
    from pipeline.judgments.ledger import Entry

State = Literal["running", "failed", "ready", "waiting", "cached", "done"]
STATES: tuple[State, ...] = ("running", "failed", "ready", "waiting", "cached", "done")
KILLED = "it ended without a word, as one that is killed"
FAILURES = "failed/"  # how run.json of stage teach counts them, by reason
STALE = (
    f"dag/ is another plan than {PARAMS} means, and this is of {PARAMS}: `omniopd plan` writes it"
)


@dataclass(frozen=True)
class Told:
    """A cell of the plan, and what became of it."""

    cell: str  # GROUP@KEY
    arm: str  # or shared, where several have it
    seed: str  # or all-seeds
    what: str  # its stage and round
    state: State
    seconds: float | None = None  # that it took, or has been running for
    writer: Writer | None = None  # of a running or failed one
    waits_for: tuple[str, ...] = ()  # cells
    reason: str = ""  # why it failed, or runs again
    training: Mapping[str, Any] = field(default_factory=dict)  # of a running one, how it goes


@dataclass(frozen=True)
class Look:
    """All cells, and what is beside them."""

    cells: Sequence[Told]  # arm by arm, each in dependency order
    commands: Sequence[str]  # that run cells now
    spent: "Entry | None"  # by this project; None where the store cannot be asked
    failures: Mapping[str, int]  # of teachers' draws in cells that are done, by reason
    notes: Sequence[str] = field(default=())
    title: str = ""
    # cells by arm and round, under each arm that has them
    rounds: Mapping[str, Mapping[str, Set[str]]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[State, int]:
        """Cells in each state."""
        found = Counter(one.state for one in self.cells)
        return {state: found[state] for state in STATES if found[state]}

    @property
    def at_work(self) -> bool:
        """Whether anything runs."""
        return bool(self.commands) or any(one.state == "running" for one in self.cells)


class Looker:
    """Looks again and again, and reads only what has changed."""

    def __init__(self, tables: bool = False) -> None:
        """`tables`: also at those that running train cells learn from."""
        self._files, self._training = settled.Files(), Training(tables)
        self._planned = functools.lru_cache(1)(_planned)

    def look(self) -> Look:
        """Raises UserError where there is no experiment to look at."""
        if not Path(".dvc").is_dir():
            raise UserError(
                f"{Path.cwd()}: found no .dvc, wanted a project. Run this in the project's folder."
            )
        # before the rest: what ends meanwhile is seen as done
        held, commands = writers.writers(), writers.commands()
        found, reads, rounds = self._planned(_version())
        known = settled.Settling(self._files).cells(found, reads)
        told = [self._with_training(found, one) for one in _told(found, reads, known, held)]
        spent, notes = _spent()
        notes += [STALE] * (not _written(reads))
        return Look(told, commands, spent, _failures(told), notes, title(found), rounds)

    def _with_training(self, found: dict[str, Any], one: Told) -> Told:
        group, _, key = one.cell.partition("@")
        if one.state != "running" or dataflow.stage(group) not in ("train", "steps"):
            return one
        content = found["cells"][group][key]
        return replace(one, training=self._training.of(group, key, content))


def _version() -> tuple[int, int]:
    """Of params.yaml. Raises UserError."""
    if not PARAMS.is_file():
        experiment.read_yaml(PARAMS)
    status = PARAMS.stat()
    return status.st_mtime_ns, status.st_size


def _planned(
    _: tuple[int, int],
) -> tuple[dict[str, Any], dict[str, set[str]], dict[str, dict[str, set[str]]]]:
    found = expand.expand(experiment.load())
    reads = expand.upstream(found)
    return found, reads, _rounds(found, reads)


def _rounds(found: dict[str, Any], reads: Iterable[str]) -> dict[str, dict[str, set[str]]]:
    """Cells of each arm's rounds, of all seeds and also where other arms have them."""
    names = {name.partition("@")[2]: name for name in reads}
    result: dict[str, dict[str, set[str]]] = {}
    for arm, seeds in expand.named(found).items():
        own = result.setdefault(arm, {})
        for rounds in seeds.values():
            for round_, stages in rounds.items():
                keys = {key.rpartition("/")[2] for key in stages.values()}
                own.setdefault(round_, set()).update(names[key] for key in keys & names.keys())
    return result


def _written(reads: Mapping[str, Any]) -> bool:
    """Whether dag/ has these cells: their names say what they are."""
    wanted = set()
    for name in reads:
        group, _, key = name.partition("@")
        wanted.add(dag_names.cell_file(dataflow.stage(group), key))
    there = (path for path in dag_names.there() if path.name != dag_names.DVC)
    return wanted == set(there)


def _told(
    found: dict[str, Any],
    reads: Mapping[str, Set[str]],
    known: Mapping[str, settled.Cell],
    held: Mapping[str, Writer],
) -> list[Told]:
    folders, result = dag_files.folders(found), dict[str, Told]()
    for name, read in reads.items():
        group, _, key = name.partition("@")
        content = found["cells"][group][key]
        writer = held.get(f"{dataflow.stage(group)}/{key}")
        waits = tuple(sorted(x for x in read if result[x].state not in ("done", "cached")))
        state, reason = _state(known[name], writer, waits)
        seconds = _seconds(group, key) if state == "done" else None
        if state == "running" and writer is not None:
            seconds = writers.ago(writer.since)
        _, arm, seed = folders[name].parts or ("", dataflow.REPORT, "")
        result[name] = Told(
            name,
            arm,
            seed,
            _what(group, content["params"]),
            state,
            seconds,
            writer if state in ("running", "failed") else None,
            waits if state == "waiting" else (),
            reason,
        )
    arms = [dag_names.SHARED, *expand.named(found), dataflow.REPORT]
    return sorted(result.values(), key=lambda one: (arms.index(one.arm), one.seed))


def _state(cell: settled.Cell, writer: Writer | None, waits: Sequence[str]) -> tuple[State, str]:
    if writer is not None and writer.alive:
        return "running", ""
    if cell.here:
        return "done", ""
    if cell.cached:
        return "cached", ""
    if writer is not None:
        return "failed", str(writer.state.get("failed") or KILLED)
    if waits:
        return "waiting", ""
    if cell.outs is not None:
        return "ready", "what it wrote is neither here nor in DVC's cache"
    return "ready", f"changed: {', '.join(cell.changed)}" if cell.changed else ""


def _what(group: str, params: Mapping[str, Any]) -> str:
    rounds = params.get("rounds") or params.get("round")
    match rounds:
        case None:
            return group
        case int():
            return f"{group} round {rounds}"
    return f"{group} rounds {rounds[0]}-{rounds[-1]}"


def _run(group: str, key: str) -> dict[str, Any]:
    folder = DATA / dataflow.stage(group)
    path = (folder if group == dataflow.REPORT else folder / key) / dataflow.RUN
    with suppress(OSError, ValueError):  # it is being made again just now
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}


def _seconds(group: str, key: str) -> float | None:
    run = _run(group, key)
    return float(run["seconds"]) if "seconds" in run else None


def _failures(told: Sequence[Told]) -> dict[str, int]:
    """Of draws, by reason, as the run.json of cells that asked a teacher has them."""
    found = Counter[str]()
    for one in told:
        group, _, key = one.cell.partition("@")
        if one.state == "done" and dataflow.stage(group) in ("teach", "steps"):
            run = _run("teach", key)
            found.update(
                {
                    name.removeprefix(FAILURES): int(count)
                    for name, count in run.items()
                    if name.startswith(FAILURES)
                }
            )
    return dict(found)


def _spent() -> "tuple[Entry | None, list[str]]":
    """By this project so far; a store that is not there yet is not made."""
    from pipeline.judgments import database, ledger, store

    try:
        place = database.parse(store.url())
        if place.get_backend_name() == "sqlite" and not Path(place.database or "").is_file():
            return ledger.Entry(), []
        with store.Store(store.url(), cells.project()) as found:
            return found.spent(), []
    except UserError as error:
        return None, [f"what was spent is not known: {error}"]
