"""The process that writes a run into Prefect's database: `python -m
pipeline.runner.prefect_server`.

On stdin a JSON line for each thing that happened, see pipeline/runner/mirror.py; on stdout what
that one reads: a word and its text. Runs that Prefect was not told to their end come first, from
their files. Prefect's server runs in this process and listens nowhere, unless OMNIOPD_PREFECT_URL
names another, as http://HOST:4200/api, that of a team (OMNIOPD_PREFECT_AUTH: its USER:PASSWORD). It
ends when its input does. Only this and pipeline/runner/mirrored.py import Prefect.
"""

import asyncio
import json
import os
import socket
import sqlite3
import sys
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runner.mirror import DATABASE, GPU_CELLS, HOME, UNTOLD
from pipeline.runner.mirrored import Mirrored, placeholder, state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prefect.client.orchestration import PrefectClient

URL, AUTH = "OMNIOPD_PREFECT_URL", "OMNIOPD_PREFECT_AUTH"
BUSY_SECONDS = 5.0  # for which a locked database is waited for
NICENESS = 5  # the cells go first
LOOK_SECONDS = 5.0  # between two looks at how far the cells are
MOST_EARLIER = 10  # runs that are told later than they ran
DAMAGED = {sqlite3.SQLITE_NOTADB: "not-a-database", sqlite3.SQLITE_CORRUPT: "corrupt"}
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_UI_ENABLED": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",  # seconds at each start; none is used
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",  # a file in ~/.prefect
}


def configure() -> None:
    """Set the environment that Prefect reads when it is imported.

    Other PREFECT_ variables are dropped: the database is the project's own, whatever else is used.
    """
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.update(SETTINGS | {"PREFECT_HOME": str(HOME.resolve())})


def moved_aside(database: Path) -> str:
    """Move a damaged database away, with what SQLite keeps beside it; in words, "" if it is whole.

    The name that it gets says when and why. Raises sqlite3.Error where SQLite cannot tell.
    """
    if not database.is_file():
        return ""
    try:
        with closing(sqlite3.connect(database, BUSY_SECONDS)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        why = "" if found == "ok" else "corrupt"
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in DAMAGED:  # as one that is locked
            raise
        found, why = str(error), DAMAGED[error.sqlite_errorcode & 0xFF]
    if not why:
        return ""
    aside = database.with_name(f"{database.name}.{why}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    for ending in ("-wal", "-shm", ""):
        beside = Path(f"{database}{ending}")
        if beside.exists():
            beside.rename(f"{aside}{ending}")
    return f"{database} is damaged ({found}): moved to {aside.name}, a new one is made"


def say(word: str, text: object = "") -> None:
    sys.stdout.write(f"{word} {' '.join(str(text).split())}\n")
    sys.stdout.flush()


async def _limit(client: "PrefectClient") -> int:
    """Cells at a time that Prefect's limit on the tag `gpu` allows; it is made where it is not."""
    from prefect.exceptions import ObjectNotFound

    try:
        found = await client.read_concurrency_limit_by_tag("gpu")
    except ObjectNotFound:
        await client.create_concurrency_limit("gpu", GPU_CELLS)
        return GPU_CELLS
    return found.concurrency_limit


def project() -> str:
    """The tag of this project's runs: a server may have those of others, too."""
    return f"{socket.gethostname()}:{Path.cwd()}"


async def _bury(client: "PrefectClient") -> None:
    """A run that was killed could not say that it ended; the project has one at a time."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    running = [StateType.RUNNING]
    state = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=running))
    shared = os.environ.get(URL)
    ours = filters.FlowRunFilterTags(all_=[project()]) if shared else None
    for flow_run in await client.read_flow_runs(
        flow_filter=filters.FlowFilter(name=filters.FlowFilterName(any_=["omniopd"])),
        flow_run_filter=filters.FlowRunFilter(state=state, tags=ours),
    ):
        type_ = filters.TaskRunFilterStateType(any_=running)
        left = filters.TaskRunFilterState(type=type_, name=None)
        for task_run in await client.read_task_runs(
            flow_run_filter=filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[flow_run.id])),
            task_run_filter=filters.TaskRunFilter(state=left),
        ):
            await client.set_task_run_state(task_run.id, Crashed(message="killed"), force=True)
        await client.set_flow_run_state(flow_run.id, Crashed(message="killed"), force=True)


async def _begun(client: "PrefectClient", flow: Any, told: dict[str, Any]) -> Mirrored:
    """A flow run by its first line; what Prefect had of it goes."""
    from prefect.client.schemas import filters

    tag = filters.FlowRunFilterTags(all_=[told["run"]])
    for found in await client.read_flow_runs(flow_run_filter=filters.FlowRunFilter(tags=tag)):
        await client.delete_flow_run(found.id)
    run = await client.create_flow_run(
        flow, name=told.get("title"), state=state_of(told), tags=[told["run"], project()]
    )
    return Mirrored(client, run.id, told.get("cells", 0))


async def _earlier(client: "PrefectClient", flow: Any, run: str) -> None:
    """Tell runs that Prefect was not told to their end, the newest few, but not `run` itself."""
    found = [path for path in UNTOLD.glob("*.jsonl") if path.stem != run]
    found.sort(key=lambda path: path.stat().st_mtime)
    for path in found[-MOST_EARLIER:]:
        mirror = None
        # its run may have been killed while it wrote: what can be read counts
        with suppress(ValueError, KeyError, TypeError):
            for line in path.read_bytes().splitlines():
                told = json.loads(line)
                if mirror is None:
                    mirror = await _begun(client, flow, told)
                else:
                    await mirror.told(told)
    for path in found:
        path.unlink(missing_ok=True)


@asynccontextmanager
async def _here() -> "AsyncIterator[PrefectClient]":
    """A client of a server in this process."""
    from asgi_lifespan import LifespanManager
    from prefect.client.orchestration import PrefectClient
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True)
    client = PrefectClient(app)
    client.manage_lifespan = False  # it would have the server start within 30 s, on any machine
    # no limits of its own: the run has one, and kills this process
    async with LifespanManager(app, startup_timeout=None, shutdown_timeout=None), client:
        yield client


@asynccontextmanager
async def _there() -> "AsyncIterator[PrefectClient]":
    """A client of the server that the user named."""
    from prefect.client.orchestration import PrefectClient

    async with PrefectClient(os.environ[URL], auth_string=os.environ.get(AUTH)) as client:
        yield client


async def serve() -> None:
    """Write what comes on stdin until it ends. Raises whatever Prefect raises."""
    from prefect import Flow

    first = json.loads(await asyncio.to_thread(sys.stdin.readline) or "null")
    if first is None:
        return
    flow: Any = Flow(placeholder, name="omniopd")
    async with _there() if os.environ.get(URL) else _here() as client:
        if first["gpu"]:
            say("limit", await _limit(client))
        await _earlier(client, flow, first["run"])
        await _bury(client)
        mirror = await _begun(client, flow, first)
        await _follow(mirror)


async def _follow(mirror: Mirrored) -> None:
    """Tell what comes on stdin until it ends, and every few seconds how far running cells are."""
    loop = asyncio.get_running_loop()
    looked = loop.time()
    coming = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
    while True:
        await asyncio.wait({coming}, timeout=max(looked + LOOK_SECONDS - loop.time(), 0))
        if loop.time() - looked >= LOOK_SECONDS:
            await mirror.look()
            looked = loop.time()
        if coming.done():
            if not (line := coming.result()):
                return
            await mirror.told(json.loads(line))
            coming = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))


def main() -> None:
    os.nice(NICENESS)
    configure()
    try:
        HOME.mkdir(exist_ok=True)
        if not os.environ.get(URL) and (moved := moved_aside(DATABASE)):
            say("moved", moved)
        asyncio.run(serve())
    except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on without Prefect
        say("failed", f"{type(error).__name__}: {error}")
        sys.exit(1)
    say("done")


if __name__ == "__main__":
    main()
