"""Prefect's temporary server for this project: its settings, its start, one flow at a time."""

import fcntl
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError

HOME = Path(".prefect")
GPU_CELLS = 1  # at a time; another limit that you set on Prefect's tag `gpu` is kept
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # the first start migrates
    "PREFECT_SERVER_TASKS_TAG_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # a cell's failure is told once, by the flow
}


def configure() -> None:
    """Set the environment that Prefect reads when it is imported.

    Other PREFECT_ variables are dropped: the server is the project's own, whatever else is used.
    """
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.update(SETTINGS | {"PREFECT_HOME": str(HOME.resolve())})
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request to the server


def start(gpu: bool) -> None:
    """Start the server, with a limit on the tag `gpu` if `gpu`. It ends with this process.

    A Ctrl-C reaches all processes of a terminal. The server must not hear it, because the flow
    still has to report its end; signals blocked here are blocked in it.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
    from prefect.exceptions import ObjectNotFound

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        client = get_client(sync_client=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if not gpu:
        return
    with client:
        try:  # a flow that was killed has not given its slot back
            unused = GlobalConcurrencyLimitUpdate(active_slots=0)
            client.update_global_concurrency_limit("tag:gpu", unused)
        except ObjectNotFound:
            client.create_concurrency_limit("gpu", GPU_CELLS)


@contextmanager
def alone() -> Iterator[None]:
    """Hold the project's flow lock. Raises UserError if another flow has it."""
    HOME.mkdir(exist_ok=True)
    with (HOME / "flow.lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                "another `omniopd run` is at work in this folder. Wait for it or stop it."
            ) from error
        yield
