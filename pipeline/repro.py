"""`dvc repro` with a count: DVC's own lines unchanged, and before each stage `stage i of n`."""

import re
import subprocess
import time

import typer

from pipeline import dag, forkserver, plan, processes
from pipeline.errors import UserError

SEEN = re.compile(r"^(?:Running stage|Stage) '([^']+)'")


def repro() -> float:
    """Run plain `dvc repro`; returns its seconds. Raises UserError if it fails."""
    total = len(plan.upstream(dag.current())) + 1
    start = time.perf_counter()
    with forkserver.serving() as server:
        _run({**dag.environment(), **server}, total)
    return time.perf_counter() - start


def _run(environment: dict[str, str], total: int) -> None:
    process = subprocess.Popen(
        dag.dvc("repro"), env=environment, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    count = 0
    try:
        for line in process.stdout:
            if SEEN.match(line):
                count += 1
                typer.echo(f"stage {count} of {total}")
            typer.echo(line, nl=False)
    except KeyboardInterrupt as error:
        processes.end([process.pid])
        raise UserError("stopped by a signal; finished stages are kept. Run it again.") from error
    if process.wait():
        raise UserError(
            f"`dvc repro` stopped with status {process.returncode}; its own message is above. "
            "Mend that and run it again: finished stages are not repeated."
        )
