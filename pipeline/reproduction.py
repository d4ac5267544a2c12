"""What the flow asks of DVC: which cells are stale, and to bring a single one up to date.

A process each: DVC's lock and its log are global to a process, and a stage that is to be stopped
needs a process group anyway.
"""

import json
import re
import subprocess
from collections.abc import Collection

import typer
from ruamel.yaml import YAML

from pipeline import dag
from pipeline.errors import UserError
from pipeline.processes import Processes

SAME = re.compile(r"^Stage '[^']+' didn't change, skipping")
EXITED = re.compile(r"^ERROR: .*, exited with (-?\d+)$")
HINTS = re.compile(
    r"^\s*$|^To track the changes|^\s+git add|^To enable auto|^\s+dvc config|^Use `dvc push`"
)


class CellFailed(Exception):
    """DVC could not bring a cell up to date. `status` is the stage's own, None if it never ran."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def killed(self) -> bool:
        """Ended by a signal, as one that ran out of memory is: negative, or from a shell > 128.

        Bad input and a bug both end a stage with 1, and no repetition helps against either.
        """
        return self.status is not None and (self.status < 0 or self.status > 128)


def stale(names: Collection[str]) -> set[str]:
    """Those of `names` that DVC would not skip, after it restored the outs that its cache has.

    A cell downstream of these may look fresh here and still have to run. Raises UserError.
    """
    changed = _status(names)
    lock = YAML(typ="safe").load(dag.LOCK.read_text()) if dag.LOCK.is_file() else {}
    known = lock.get("stages") or {}
    gone = [name for name, deleted in changed.items() if deleted and name in known]
    if gone:  # all of them in the time that `dvc repro` takes for one or two
        command = dag.dvc("--wait-for-lock", "checkout", "--quiet", "--allow-missing", *gone)
        subprocess.run(command, env=dag.environment(), capture_output=True, check=False)
        changed = _status(names)
    return set(changed)


def _status(names: Collection[str]) -> dict[str, bool]:
    """Each stale cell, and whether outs of it are deleted and none is otherwise changed."""
    command = dag.dvc("--wait-for-lock", "status", "--json", "--no-updates")
    done = subprocess.run(command, env=dag.environment(), capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"`dvc status` failed: {done.stderr.strip() or done.stdout.strip()}")
    changed = {}
    for name, entries in json.loads(done.stdout).items():
        if name in names:
            outs = [
                e["changed outs"] for e in entries if isinstance(e, dict) and "changed outs" in e
            ]
            changed[name] = {state for out in outs for state in out.values()} == {"deleted"}
    return changed


def reproduce(name: str, processes: Processes) -> bool:
    """`dvc repro` of this cell alone; whether DVC ran or restored it. Raises CellFailed.

    Every line of its output but DVC's hints is echoed with the cell's name before it. DVC exits
    with 255 whatever the stage's status was; that one is read from DVC's last line.
    """
    same, status, last = False, None, ""

    def line(text: str) -> None:
        nonlocal same, status, last
        if HINTS.match(text):
            return
        typer.echo(f"{name} | {text}")
        same = same or bool(SAME.match(text))
        if exited := EXITED.match(text):
            status = int(exited[1])
        else:
            last = text

    command = dag.dvc("--wait-for-lock", "repro", "--single-item", name)
    code = processes.run(command, line)
    if code:
        raise CellFailed(last, code if code < 0 else status)
    return not same
