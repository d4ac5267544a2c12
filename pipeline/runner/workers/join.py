"""`omniopd worker`: this folder as a node of a head's cluster, run after run, until it is ended."""

import json
import os
import time
from pathlib import Path

import typer

from pipeline.core.errors import UserError, short
from pipeline.engines.vllm.resident import lending
from pipeline.processes import fork_server, reaper, stopping
from pipeline.processes.launch.kinds import KINDS, Kind
from pipeline.runner.workers import cluster, nodes, record, task

LOOK_SECONDS = 1.0
REFUSED = 3  # looks in a row at which nobody listens: the head is gone


def work(head: str, gpus: int, serves: str, cells: int, ip: str) -> None:
    """Raises UserError where this folder's code is not the head's, Stopped at a signal."""
    kinds = [kind for kind in KINDS if kind in serves.split(",")]
    if not kinds or set(serves.split(",")) - set(KINDS):
        raise UserError(
            f"--serves: found {short(serves)}, wanted some of {','.join(KINDS)}. Correct it."
        )
    _open()
    cluster.parsed(head)
    cluster.environment(make=False)
    os.environ[task.FOLDER] = str(Path.cwd())
    os.environ[task.OWN] = json.dumps({name: os.environ.get(name) for name in task.RAYS})
    try:
        with stopping.heard(), reaper.watched():
            while True:
                _once(head, gpus, kinds, cells, ip)
    except stopping.Asked as asked:
        raise stopping.Stopped("this worker has left.", asked) from None


def _open() -> None:
    """Raise UserError where DVC has no project: every cell that came here would fail."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    own = "Run this in a clone of its own, which no other worker and no head uses."
    if not Path(".dvc").is_dir():
        raise UserError(f"{Path.cwd()}: found no .dvc, wanted a project's folder. {own}")
    try:
        Repo().close()
    except DvcException as error:
        raise UserError(f"{Path.cwd()}: wanted a project, and DVC says {error}. {own}") from error


def _once(head: str, gpus: int, kinds: list[Kind], cells: int, ip: str) -> None:
    """From when there is a head to when it is gone."""
    said = _record(head)
    count = record.compare(said)
    typer.echo(f"the code of {count} variants is that of the head at {head}")
    resources = json.dumps(nodes.offered(cells, kinds))
    words = ["--address", head, "--resources", resources, "--num-gpus", str(gpus)]
    words += ["--num-cpus", str(cells)]  # processes that Ray keeps ready; no cell asks for CPUs
    with (
        fork_server.serving() as warm,
        lending() as engines,
        cluster.node(ip, *words, environment=warm | engines) as node,
    ):
        typer.echo(f"joins {head} with room for {cells} cells at a time of {', '.join(kinds)}")
        why = _until(head, node, said)
    typer.echo(f"left {head}: {why}")


def _record(head: str) -> bytes:
    """What the head says, when there is one."""
    from ray.exceptions import RayError

    waiting = False
    while True:
        if cluster.answers(head):
            try:
                key, space = cluster.RECORD, cluster.NAMESPACE.encode()
                if (found := cluster.told(head).internal_kv_get(key, space)) is not None:
                    return bytes(found)
            except (RayError, RuntimeError, ConnectionError) as error:
                _refused(error, head)
        if not waiting:
            typer.echo(f"waits for a head at {head}")
            waiting = True
        time.sleep(LOOK_SECONDS)


def _refused(error: Exception, head: str) -> None:
    """Raise what does not change by waiting."""
    if "uthent" in str(error):  # Unauthenticated, AuthenticationError
        raise UserError(
            f"{head}: found a cluster that does not take this machine's token, wanted the head's. "
            "Copy it from the head: ~/.ray/auth_token, or what RAY_AUTH_TOKEN_PATH names there."
        ) from error


def _until(head: str, node: cluster.Node, record: bytes) -> str:
    """Wait for the end of the node, of the head, or of its record; says which."""
    refused, looked = 0, time.monotonic()
    while node.process.poll() is None:
        time.sleep(LOOK_SECONDS)
        refused = refused + 1 if cluster.answers(head) is False else 0
        if refused == REFUSED:
            return "the head has ended"
        if time.monotonic() - looked > 10 and not refused:
            looked = time.monotonic()
            if _record(head) != record:
                return "the head's code or plan has changed"
    return f"Ray's node ended; it said {node.tail()}"
