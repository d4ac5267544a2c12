"""`dvc repro` with a count: DVC's own lines unchanged, and before each stage `stage i of n`."""

import re
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import typer

from pipeline.config import params_file
from pipeline.core import dag_names
from pipeline.core.errors import UserError
from pipeline.engines.vllm.resident import lending
from pipeline.plan import expand
from pipeline.processes import fork_server, reaper, stopping, subprocesses
from pipeline.runner import dvc_project, restoring, retention
from pipeline.runner.dag import dag_files, plan_files
from pipeline.runner.sharing import links

REPRO = ("repro",)
SEEN = re.compile(r"^(?:Running stage|Stage) '([^']+)'")


def repro(*words: str) -> float:
    """Run plain `dvc repro`, or as `words` say; returns its seconds. Raises UserError if it fails.

    Where it is an experiment, which is a commit of what it wrote, nothing is dropped behind it.
    """
    found = plan_files.current()
    keep = retention.of(found, retention.wanted())
    start = time.perf_counter()
    try:
        with (
            stopping.heard(),
            reaper.watched(),
            fork_server.serving() as server,
            lending() as lent,
        ):
            environment = {**plan_files.environment(), **server, **lent}
            restoring.restore(keep, plan_files.dvc("checkout"), environment)
            if keep.readers and not words:
                keeping_repro(found, keep, environment, params_file.runtime().drop_shared)
            else:
                _whole(found, keep, environment, words or REPRO)
    except stopping.Asked as asked:
        raise stopping.Stopped("finished stages are kept. Rerun to go on.", asked) from None
    links.settle()
    return time.perf_counter() - start


def keeping_repro(
    found: dict[str, Any], keep: retention.Keep, environment: dict[str, str], shared: bool = False
) -> None:
    """Bring the plan up to date where weights may be missing, and drop what is not kept."""
    _whole(found, keep, environment, REPRO)
    typer.echo(drop(found, keep, shared))


def _whole(
    found: dict[str, Any], keep: retention.Keep, environment: dict[str, str], words: Sequence[str]
) -> None:
    """Run all of it by DVC's command `words`; where weights may be missing, with --allow-missing.

    Then first the cells whose dropped checkpoints changed ones read. That a cell changed may show
    only when those before it have run: then once more.
    """
    total = len(expand.upstream(found)) + 1
    if not keep.readers:
        _run(environment, total, *words)
        return
    tried: set[str] = set()
    while True:
        again = _again(keep)
        places = dag_files.folders(found) if again else {}
        for name in again:
            why = "a changed cell reads its checkpoint, dropped by experiment.keep_checkpoints"
            typer.echo(f"{name}: {why}")
            address = dag_names.address(places[name], name)
            _run(environment, len(again), *REPRO, "--single-item", address)
        tried |= set(again)
        try:
            _run(environment, total, *words, "--allow-missing")
        except UserError:
            if set(_again(keep)) <= tried:
                raise
        else:
            break


def _again(keep: retention.Keep) -> list[str]:
    """Dropped cells that have to rerun, in dependency order."""
    return dvc_project.Project(keep).again() if keep.dropped() else []


def drop(found: dict[str, Any], keep: retention.Keep, shared: bool) -> str:
    """Drop what is not kept and no cell that is stale reads; in words."""
    reads = expand.upstream(found)
    if not keep.readers:
        return "experiment.keep_checkpoints: nothing to drop, every round is kept"
    project = dvc_project.Project(keep, shared)
    waiting = project.stale(reads)
    for name, read in reads.items():  # in dependency order
        if read & waiting:
            waiting.add(name)
    done = set(reads) - waiting
    over = keep.left(keep.over(done))
    project.drop(over)
    project.settle(done)
    return (
        f"experiment.keep_checkpoints {keep.what}: dropped the checkpoints of {len(over)} train "
        f"cells; {len(keep.dropped())} of {len(keep.readers)} that it does not keep are gone"
    )


def _run(environment: dict[str, str], total: int, *words: str) -> None:
    command = plan_files.dvc(*words)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8", bufsize=1
    )
    assert process.stdout is not None
    count = 0
    try:
        for line in process.stdout:
            if SEEN.match(line):
                count += 1
                typer.echo(f"stage {count} of {total}")
            typer.echo(line, nl=False)
        status = process.wait()
    except stopping.Asked:
        subprocesses.end([process.pid])
        raise
    if status:
        raise UserError(
            f"`dvc {words[0]}` stopped with status {status}; its own message is above. "
            "Fix this, then rerun: finished stages are not repeated."
        )
